"""The chunk engine against a plain loop of full forwards without any cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bem import AdapterHost, load_base, make_config
from bem.context import RoutingContext
from bem.errors import InvalidInputError
from bem.planner import ChunkEngine, Over, engine
from bem.testing import write_tiny_base

NAMES = ("one", "two")
SEPARATOR = 13
PROMPTS = [[1, 20, 30, 40], [1, 50], [1, 60, 61, 62, 63, 64, 65], [1, 33, 34]]
GIVEN = [[70, 71, 72], [70, 74], [70, 75, 76, 77, 78], [70, 79]]


@pytest.fixture(params=["llama", "gpt2"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> AdapterHost:
    made = AdapterHost(load_base(write_tiny_base(tmp_path, request.param)))
    generator = torch.Generator().manual_seed(0)
    for name in NAMES:
        config = make_config("generated", rank=3, controller_width=4, feature_layer=1)
        adapter = made.add(name, config, generator=generator)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.normal_(0.0, 0.5, generator=generator)
    made.model.eval()
    return made


def full_logits(
    host: AdapterHost,
    tokens: Sequence[int],
    prompt: int,
    owners: Sequence[str],
    over: Over | None = None,
) -> Tensor:
    """One row, one full forward: each position under the adapter that owns it (or none)."""
    if over is not None:
        return over_logits(host, tokens, prompt, owners, over)
    context = RoutingContext(
        prefix_mask_BT=(torch.arange(len(tokens)) < prompt)[None],
        adapters=NAMES,
        strength={name: torch.tensor([[float(o == name) for o in owners]]) for name in NAMES},
    )
    with torch.no_grad():
        logits: Tensor = host(torch.tensor([tokens]), routing=context).logits[0]
    return logits


def over_logits(
    host: AdapterHost, tokens: Sequence[int], prompt: int, owners: Sequence[str], over: Over
) -> Tensor:
    """The same with one adapter more: where a skill acts, or everywhere."""
    strength = {name: torch.tensor([[float(o == name) for o in owners]]) for name in NAMES}
    lies = [over.strength * float(over.reads or bool(owner)) for owner in owners]
    context = RoutingContext(
        prefix_mask_BT=(torch.arange(len(tokens)) < prompt)[None],
        adapters=(*NAMES, over.adapter),
        strength=strength | {over.adapter: torch.tensor([lies])},
    )
    with torch.no_grad():
        logits: Tensor = host(torch.tensor([tokens]), routing=context).logits[0]
    return logits


def naive_chunk(
    host: AdapterHost,
    tokens: list[int],
    prompt: int,
    owners: list[str],
    name: str,
    max_new: int,
    over: Over | None = None,
) -> tuple[list[int], Tensor]:
    """Greedy writing by full forwards; extends `tokens` and `owners` up to the separator."""
    written: list[int] = []
    while True:
        following = int(full_logits(host, tokens, prompt, owners, over)[-1].argmax())
        if len(written) == max_new:
            following = SEPARATOR
        tokens.append(following)
        owners.append(name)
        if following == SEPARATOR:
            return written, full_logits(host, tokens, prompt, owners, over)[-1]
        written.append(following)


@pytest.mark.parametrize("thin_out", [False, True])
def test_two_chunks_equal_full_forwards(
    host: AdapterHost, monkeypatch: pytest.MonkeyPatch, thin_out: bool
) -> None:
    monkeypatch.setattr(engine, "_LEAST_ROWS", 1 if thin_out else 100)
    monkeypatch.setattr(engine, "_THIN_OUT_AT", 0.99)
    chunks = ChunkEngine(host, separator_id=SEPARATOR)
    start = chunks.prefill(PROMPTS, acting=(), ready=NAMES)
    first = chunks.extend(start.walk, "one", GIVEN, max_new=5)
    second = chunks.extend(first.walk, "two", [[80, 81]] * len(PROMPTS), max_new=4)
    for row, (prompt, given) in enumerate(zip(PROMPTS, GIVEN, strict=True)):
        tokens, owners = [*prompt, *given], [""] * (len(prompt) + len(given) - 1) + ["one"]
        torch.testing.assert_close(
            start.logits_BV[row], full_logits(host, prompt, len(prompt), [""] * len(prompt))[-1]
        )
        written, after = naive_chunk(host, tokens, len(prompt), owners, "one", 5)
        assert first.tokens[row] == written
        torch.testing.assert_close(first.logits_BV[row], after, atol=1e-4, rtol=1e-4)
        tokens += [80, 81]
        owners += ["", "two"]
        written, after = naive_chunk(host, tokens, len(prompt), owners, "two", 4)
        assert second.tokens[row] == written
        torch.testing.assert_close(second.logits_BV[row], after, atol=1e-4, rtol=1e-4)
        assert int(second.walk.length_B[row]) == len(tokens)


@pytest.mark.parametrize("kind", ["lora", "generated"])
@pytest.mark.parametrize("reads", [False, True])
def test_an_adapter_over_the_skills_equals_full_forwards(
    host: AdapterHost, kind: str, reads: bool
) -> None:
    generator = torch.Generator().manual_seed(9)
    fields = {} if kind == "lora" else {"controller_width": 4, "feature_layer": 1}
    made = host.add("over", make_config(kind, rank=3, **fields), generator=generator)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
    chunks = ChunkEngine(host, separator_id=SEPARATOR)
    over = Over(adapter="over", strength=0.6, reads=reads)
    start = chunks.prefill(PROMPTS, acting=(), ready=(*NAMES, "over"), over=over)
    first = chunks.extend(start.walk, "one", GIVEN, max_new=4, over=over)
    second = chunks.extend(first.walk, "two", [[80, 81]] * len(PROMPTS), max_new=3, over=over)
    for row, (prompt, given) in enumerate(zip(PROMPTS, GIVEN, strict=True)):
        tokens, owners = [*prompt, *given], [""] * (len(prompt) + len(given) - 1) + ["one"]
        nobody = [""] * len(prompt)
        expected = full_logits(host, prompt, len(prompt), nobody, over)[-1]
        torch.testing.assert_close(start.logits_BV[row], expected, atol=1e-4, rtol=1e-4)
        written, after = naive_chunk(host, tokens, len(prompt), owners, "one", 4, over)
        assert first.tokens[row] == written
        torch.testing.assert_close(first.logits_BV[row], after, atol=1e-4, rtol=1e-4)
        tokens += [80, 81]
        owners += ["", "two"]
        written, after = naive_chunk(host, tokens, len(prompt), owners, "two", 3, over)
        assert second.tokens[row] == written
        torch.testing.assert_close(second.logits_BV[row], after, atol=1e-4, rtol=1e-4)
    without = chunks.extend(start.walk, "one", GIVEN, max_new=4)
    assert not torch.allclose(without.logits_BV, first.logits_BV)
    if not reads:
        off = Over(adapter="over", strength=0.0)
        zero = chunks.extend(start.walk, "one", GIVEN, max_new=4, over=off)
        torch.testing.assert_close(zero.logits_BV, without.logits_BV)


def test_rows_that_close_early_leave_the_others_alone(
    host: AdapterHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a token that some rows write as separator, rows close at different steps."""
    monkeypatch.setattr(engine, "_LEAST_ROWS", 1)
    monkeypatch.setattr(engine, "_THIN_OUT_AT", 0.9)
    chunks = ChunkEngine(host, separator_id=SEPARATOR)
    start = chunks.prefill(PROMPTS, acting=(), ready=NAMES)
    probe = chunks.extend(start.walk, "one", GIVEN, max_new=6)
    separator = next(t for row in probe.tokens for t in row[1:] if t != SEPARATOR)
    got = ChunkEngine(host, separator_id=separator).extend(start.walk, "one", GIVEN, max_new=6)
    for row, (whole, cut) in enumerate(zip(probe.tokens, got.tokens, strict=True)):
        expected = whole[: whole.index(separator)] if separator in whole else whole
        assert cut[: len(expected)] == expected, row
    assert len({len(row) for row in got.tokens}) > 1


def test_a_walk_is_not_changed_by_what_grows_from_it(host: AdapterHost) -> None:
    chunks = ChunkEngine(host, separator_id=SEPARATOR)
    start = chunks.prefill(PROMPTS, acting=(), ready=NAMES)
    before = [(k.clone(), v.clone()) for k, v in start.walk.kv]
    one = chunks.extend(start.walk, "one", GIVEN, max_new=4)
    chunks.extend(start.walk, "two", GIVEN, max_new=4)
    again = chunks.extend(start.walk, "one", GIVEN, max_new=4)
    for (k, v), (old_k, old_v) in zip(start.walk.kv, before, strict=True):
        assert torch.equal(k, old_k)
        assert torch.equal(v, old_v)
    assert one.tokens == again.tokens
    assert torch.equal(one.logits_BV, again.logits_BV)


def test_taken_rows_go_on_as_they_would_have(host: AdapterHost) -> None:
    chunks = ChunkEngine(host, separator_id=SEPARATOR)
    start = chunks.prefill(PROMPTS, acting=(), ready=NAMES)
    whole = chunks.extend(start.walk, "two", GIVEN, max_new=4)
    rows = torch.tensor([2, 0])
    part = chunks.extend(start.walk.take(rows), "two", [GIVEN[2], GIVEN[0]], max_new=4)
    assert part.tokens == [whole.tokens[2], whole.tokens[0]]


def test_an_acting_adapter_keeps_its_code(host: AdapterHost) -> None:
    """`acting` equals a full forward with the adapter on the prompt's last token as well."""
    chunks = ChunkEngine(host, separator_id=SEPARATOR)
    start = chunks.prefill(PROMPTS, acting=("one",), ready=())
    chunk = chunks.extend(start.walk, "one", GIVEN, max_new=3)
    for row, (prompt, given) in enumerate(zip(PROMPTS, GIVEN, strict=True)):
        tokens = [*prompt, *given]
        reads = [""] * (len(prompt) - 1)
        at_prompt = full_logits(host, prompt, len(prompt), [*reads, "one"])[-1]
        torch.testing.assert_close(start.logits_BV[row], at_prompt, atol=1e-4, rtol=1e-4)
        owners = [*reads, "one", *[""] * (len(given) - 1), "one"]
        written, after = naive_chunk(host, tokens, len(prompt), owners, "one", 3)
        assert chunk.tokens[row] == written
        torch.testing.assert_close(chunk.logits_BV[row], after, atol=1e-4, rtol=1e-4)


def test_a_chunk_of_one_given_token_is_refused(host: AdapterHost) -> None:
    chunks = ChunkEngine(host, separator_id=SEPARATOR)
    start = chunks.prefill(PROMPTS, acting=(), ready=NAMES)
    with pytest.raises(InvalidInputError, match="at least two given tokens"):
        chunks.extend(start.walk, "one", [[70]] * len(PROMPTS), max_new=2)
