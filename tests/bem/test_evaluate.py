from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bem import AdapterHost, load_base, make_config
from bem.data import Encoded, Example, answer_loss, encode, pad, pad_id_of
from bem.errors import AgreementError
from bem.evaluate import (
    assert_agreement,
    buckets,
    decode,
    greedy_generate,
    target_loss,
    teacher_forced_exact_match,
)
from bem.training import fit


@pytest.fixture(scope="module")
def trained(llama_folder: Path) -> tuple[AdapterHost, list[Encoded]]:
    """A sequence-code adapter that has half learned to repeat a letter: hits and misses."""
    base = load_base(llama_folder)
    host = AdapterHost(base)
    draw = torch.Generator().manual_seed(0)
    host.add("a", make_config("generated", rank=4), generator=draw)
    host.use("a")
    letters = "abcdefghijklmnopqrstuvwx"
    examples = [
        Example(prompt="." * (i % 5) + c, target=c * (1 + i % 3), id=c, cluster="c")
        for i, c in enumerate(letters)
    ]
    encoded = encode(examples, base.tokenizer)
    batch = pad(encoded, pad_id=pad_id_of(base.tokenizer))
    fit(
        lambda step: target_loss(host, batch, batch.routing()),
        host.parameter_groups(5e-3),
        steps=60,
    )
    return host, encoded


def naive_greedy(host: AdapterHost, row: Encoded, steps: int) -> list[int]:
    """One row, no cache, no padding: a full forward for every token."""
    tokens: list[int] = []
    batch = pad([row], pad_id=0, prompt_only=True)
    prefix = len(row.prompt_ids)
    for _ in range(steps):
        ids_1T = torch.tensor([[*row.prompt_ids, *tokens]])
        mask_1T = (torch.arange(ids_1T.shape[1]) < prefix)[None]
        routing = batch.routing()
        routing.prefix_mask_BT = mask_1T
        with torch.no_grad():
            tokens.append(int(host(ids_1T, routing=routing).logits[0, -1].argmax()))
        if tokens[-1] == host.base.tokenizer.eos_token_id:
            break
    return tokens


def test_generation_equals_a_loop_without_cache(
    trained: tuple[AdapterHost, list[Encoded]],
) -> None:
    host, encoded = trained
    together = greedy_generate(host, encoded, max_new_tokens=5, max_tokens=60)
    assert together == [naive_greedy(host, row, 5) for row in encoded]


def test_exact_match_is_greedy_exact_match(trained: tuple[AdapterHost, list[Encoded]]) -> None:
    host, encoded = trained
    hits = teacher_forced_exact_match(host, encoded, max_tokens=64)
    assert 0 < sum(hits) < len(hits)
    assert hits == [tuple(naive_greedy(host, row, 4)) == row.target_ids for row in encoded]
    assert hits == teacher_forced_exact_match(host, encoded)
    assert_agreement(host, encoded, hits)
    wrong = [not hits[0], *hits[1:]]
    with pytest.raises(AgreementError, match="disagree on 1 of 24 examples, first 'a'"):
        assert_agreement(host, encoded, wrong)


def test_the_order_of_examples_is_kept(trained: tuple[AdapterHost, list[Encoded]]) -> None:
    host, encoded = trained
    hits = teacher_forced_exact_match(host, encoded, max_tokens=64)
    assert teacher_forced_exact_match(host, encoded[::-1], max_tokens=64) == hits[::-1]


def test_target_loss_equals_the_loss_over_all_logits(
    trained: tuple[AdapterHost, list[Encoded]],
) -> None:
    host, encoded = trained
    batch = pad(encoded[:4], pad_id=0)
    full = host(batch.input_ids_BT, batch.attention_mask_BT, routing=batch.routing()).logits
    torch.testing.assert_close(
        target_loss(host, batch, batch.routing()), answer_loss(full, batch), rtol=1e-5, atol=1e-6
    )


def test_decode_leaves_special_tokens_out(trained: tuple[AdapterHost, list[Encoded]]) -> None:
    host, encoded = trained
    assert decode(host, [encoded[2].target_ids]) == ["ccc"]


def test_buckets_hold_everything_once_within_the_budget() -> None:
    lengths = [3, 9, 1, 5, 5, 2, 30]
    made = list(buckets(lengths, 12))
    assert sorted(i for chunk in made for i in chunk) == list(range(7))
    for chunk in made:
        assert len(chunk) * max(lengths[i] for i in chunk) <= 12 or len(chunk) == 1
