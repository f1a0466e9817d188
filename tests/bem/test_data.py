from __future__ import annotations

import pytest
import torch

from bem import BaseModel
from bem.data import IGNORED, Example, answer_loss, collate, encode, pad
from bem.errors import InvalidInputError

EXAMPLES = [
    Example(prompt="ab:", target="xyz", id="first", cluster="one"),
    Example(prompt="abcd:", target="x", id="second", cluster="two"),
]


def test_a_batch_row_by_row(llama: BaseModel) -> None:
    tokenizer = llama.tokenizer
    batch = collate(EXAMPLES, tokenizer)
    eos, fill = tokenizer.eos_token_id, tokenizer.pad_token_id
    for row, example in enumerate(EXAMPLES):
        prompt = tokenizer(example.prompt)["input_ids"]
        target = [*tokenizer(example.target)["input_ids"], eos]
        rest = batch.input_ids_BT.shape[1] - len(prompt) - len(target)
        assert batch.input_ids_BT[row].tolist() == [*prompt, *target, *[fill] * rest]
        used = len(prompt) + len(target)
        assert batch.attention_mask_BT[row].tolist() == [1] * used + [0] * rest
        assert batch.prefix_mask_BT[row].tolist() == [True] * len(prompt) + [False] * (
            7 - len(prompt)
        )
        assert batch.labels_BT[row].tolist() == [
            *[IGNORED] * len(prompt),
            *target,
            *[IGNORED] * rest,
        ]
    assert batch.ids == ("first", "second")
    assert batch.clusters == ("one", "two")


def test_prompt_only_leaves_targets_out(llama: BaseModel) -> None:
    encoded = encode(EXAMPLES, llama.tokenizer)
    batch = pad(encoded, pad_id=0, prompt_only=True)
    assert batch.attention_mask_BT.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert torch.equal(batch.prefix_mask_BT, batch.attention_mask_BT.bool())
    assert bool((batch.labels_BT == IGNORED).all())


def test_nothing_is_cut_off_silently(llama: BaseModel) -> None:
    with pytest.raises(InvalidInputError, match=r"'first' has 7 tokens with its eos; allowed: 6"):
        collate(EXAMPLES, llama.tokenizer, max_len=6)
    with pytest.raises(InvalidInputError, match="'x': the prompt has no token"):
        encode([Example(prompt="", target="a", id="x", cluster="c")], llama.tokenizer)
    with pytest.raises(InvalidInputError, match="at least one example"):
        pad([], pad_id=0)
    assert encode([], llama.tokenizer) == []


@pytest.mark.parametrize("prefix_weight", [0.0, 0.1])
def test_answer_loss_equals_a_loop(llama: BaseModel, prefix_weight: float) -> None:
    batch = collate(EXAMPLES, llama.tokenizer)
    draw = torch.Generator().manual_seed(0)
    logits_BTV = torch.randn(*batch.input_ids_BT.shape, 259, generator=draw)
    total, weights = 0.0, 0.0
    for b in range(2):
        for t in range(1, batch.input_ids_BT.shape[1]):
            if not batch.attention_mask_BT[b, t]:
                continue
            weight = prefix_weight if batch.prefix_mask_BT[b, t] else 1.0
            nll = -logits_BTV[b, t - 1].log_softmax(-1)[batch.input_ids_BT[b, t]]
            total += weight * float(nll)
            weights += weight
    loss = answer_loss(logits_BTV, batch, prefix_weight=prefix_weight)
    assert float(loss) == pytest.approx(total / weights, rel=1e-5)
