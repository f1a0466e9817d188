from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from missions.base_model import bundled_path
from missions.base_model.corpus import BUCKETS, COPY_FIRST, MIXTURE, Corpus, rename_fields
from missions.base_model.train import Recipe, Trainer, learning_rate
from missions.data.names import names_of
from missions.data.splits import leak_check
from missions.data.tasks import TaskItem

TOKENIZER = AutoTokenizer.from_pretrained(bundled_path())


def test_corpus_rows_weights_and_splits() -> None:
    batches = Corpus(TOKENIZER, np.random.default_rng(0)).batches(
        MIXTURE, tokens_per_batch=1024, pool=512
    )
    assert batches
    texts = []
    for batch in batches:
        rows, width = batch.ids_BT.shape
        assert width in BUCKETS
        assert rows == 1024 // width
        pad_BT = batch.ids_BT == TOKENIZER.pad_token_id
        assert (batch.weight_BT[pad_BT] == 0).all()
        eos_BT = batch.ids_BT == TOKENIZER.eos_token_id
        assert eos_BT.any(1).all()
        assert (batch.weight_BT[eos_BT] == 1).all()
        assert set(np.unique(batch.weight_BT)) <= {np.float32(0), np.float32(0.1), np.float32(1)}
        texts += TOKENIZER.batch_decode(batch.ids_BT.tolist())
    assert any("copy: " in text for text in texts)
    leak_check(texts, names_of("test")).raise_if_leaking()


def test_batches_are_deterministic() -> None:
    first, second = (
        Corpus(TOKENIZER, np.random.default_rng(1)).batches(
            COPY_FIRST, tokens_per_batch=512, pool=256
        )
        for _ in range(2)
    )
    assert len(first) == len(second)
    assert all((a.ids_BT == b.ids_BT).all() for a, b in zip(first, second, strict=True))


def test_renamed_fields_agree_in_prompt_and_target() -> None:
    item = TaskItem(
        skill="json", prompt="json book: title a1; year 2\n", target='{"title":"a1","year":2}'
    )
    seen = set()
    for seed in range(20):
        new = rename_fields(np.random.default_rng(seed), item)
        words = new.prompt.partition(": ")[2].replace(";", "").split()
        assert new.target == f'{{"{words[0]}":"a1","{words[2]}":2}}'
        seen.add(new.target)
    assert len(seen) > 10


def test_learning_rate_warms_up_and_falls_in_two_cycles() -> None:
    recipe = Recipe(
        total_tokens=1000,
        pairs_tokens=400,
        warmup_steps=10,
        learning_rate=3e-3,
        pairs_learning_rate=1e-3,
    )
    assert learning_rate(recipe, 0, 0) == pytest.approx(3e-4)
    assert learning_rate(recipe, 10, 0) == pytest.approx(3e-3)
    assert learning_rate(recipe, 99, 399) == pytest.approx(3e-5, rel=0.01)
    assert learning_rate(recipe, 99, 400) == pytest.approx(1e-3)
    assert learning_rate(recipe, 99, 700) == pytest.approx((1e-3 + 3e-5) / 2)
    assert learning_rate(recipe, 99, 1000) == pytest.approx(3e-5)


def test_a_few_steps_lower_the_loss_and_keep_the_twin_in_step() -> None:
    recipe = Recipe(
        hidden_size=32, num_heads=2, num_layers=1, ffn_size=32, warmup_steps=1, learning_rate=3e-3
    )
    trainer = Trainer(recipe, TOKENIZER, compiled=False)
    batch = Corpus(TOKENIZER, np.random.default_rng(2)).batches(
        COPY_FIRST, tokens_per_batch=512, pool=256
    )[0]
    ids_BT, weight_BT = torch.from_numpy(batch.ids_BT), torch.from_numpy(batch.weight_BT)
    losses = [trainer.step(ids_BT, weight_BT) for _ in range(20)]
    assert losses[-1] < losses[0] - 1
    for master, twin in zip(trainer.master.parameters(), trainer._twin.parameters(), strict=True):
        assert torch.equal(master.to(torch.bfloat16), twin)


def test_random_pairs_hold_the_answer_beside_the_key() -> None:
    corpus = Corpus(TOKENIZER, np.random.default_rng(4))
    for _ in range(200):
        prompt, answer = corpus._random_pairs()
        text = TOKENIZER.decode(prompt)
        key = text.removeprefix("get ").partition(": ")[0]
        assert text.count(key) >= 2
        assert TOKENIZER.decode(answer) in text.partition(": ")[2]


def test_random_tokens_spell_no_held_out_name() -> None:
    corpus = Corpus(TOKENIZER, np.random.default_rng(3))
    texts = [TOKENIZER.decode(corpus._random_copy()[1]) for _ in range(2000)]
    texts += [TOKENIZER.decode(corpus._random_pairs()[0]) for _ in range(1000)]
    leak_check(texts, [*names_of("dev"), *names_of("test")]).raise_if_leaking()
