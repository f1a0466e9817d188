"""The gated continuation against one plain forward, and its cache against no cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bem import AdapterHost, RoutingContext, load_base, make_config
from bem.safety import Prefill, continue_greedy, continue_logits, prefill
from bem.testing import write_tiny_base

PAD = 0


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=["llama", "gpt2"], scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base") / request.param, request.param)


@pytest.fixture
def host(folder: Path) -> Iterator[AdapterHost]:
    made = AdapterHost(load_base(folder))
    for seed, name in enumerate(("skill", "safety")):
        adapter = made.add(name, make_config("lora", rank=2), generator=draw(seed))
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw(seed + 7)))
    made.freeze()
    yield made
    made.detach()


def prompts() -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, 250, (3, 7), generator=draw(3))
    mask = torch.ones_like(ids)
    for row, length in enumerate((7, 4, 5)):
        ids[row, length:] = PAD
        mask[row, length:] = 0
    return ids, mask


def state_of(host: AdapterHost) -> Prefill:
    ids, mask = prompts()
    return prefill(host, ids, mask, ("skill",), {})


def test_without_the_branch_it_is_the_plain_model(host: AdapterHost) -> None:
    ids, mask = prompts()
    answer = torch.randint(3, 250, (3, 4), generator=draw(5))
    logits = continue_logits(
        host, state_of(host), answer, torch.ones_like(answer), adapters=("skill",), strength={}
    )
    for row in range(3):
        length = int(mask[row].sum())
        whole = torch.cat([ids[row, :length], answer[row]])[None]
        out = host(whole, routing=RoutingContext(adapters=("skill",))).logits[0]
        torch.testing.assert_close(logits[row], out[length - 1 : length + 3], rtol=1e-4, atol=1e-4)


def test_the_branch_acts_from_the_last_prompt_token_on(host: AdapterHost) -> None:
    """Equals one uncached forward whose strength is 0 before that token and the gate after."""
    ids, mask = prompts()
    answer = torch.randint(3, 250, (3, 4), generator=draw(5))
    gate = torch.tensor([0.0, 0.4, 1.0])
    logits = continue_logits(
        host,
        state_of(host),
        answer,
        torch.ones_like(answer),
        adapters=("skill", "safety"),
        strength={"safety": gate},
    )
    for row in range(3):
        length = int(mask[row].sum())
        whole = torch.cat([ids[row, :length], answer[row]])[None]
        strength = torch.zeros(1, whole.shape[1])
        strength[0, length - 1 :] = gate[row]
        routing = RoutingContext(adapters=("skill", "safety"), strength={"safety": strength})
        out = host(whole, routing=routing).logits[0]
        torch.testing.assert_close(logits[row], out[length - 1 : length + 3], rtol=1e-4, atol=1e-4)


def test_greedy_agrees_with_teacher_forcing(host: AdapterHost) -> None:
    state = state_of(host)
    kwargs = {
        "adapters": ("skill", "safety"),
        "strength": {"safety": torch.tensor([0.2, 0.9, 0.5])},
    }
    rows = continue_greedy(host, state, max_new_tokens=5, eos_id=-1, **kwargs)  # type: ignore[arg-type]
    answer = torch.tensor(rows)
    logits = continue_logits(host, state, answer, torch.ones_like(answer), **kwargs)  # type: ignore[arg-type]
    assert torch.equal(logits.argmax(-1), answer)


def test_a_prefill_can_be_continued_again(host: AdapterHost) -> None:
    state = state_of(host)
    before = [key.clone() for key, _ in state.keys_values]
    first = continue_greedy(
        host, state, adapters=("skill",), strength={}, max_new_tokens=3, eos_id=-1
    )
    again = continue_greedy(
        host, state, adapters=("skill",), strength={}, max_new_tokens=3, eos_id=-1
    )
    part = continue_greedy(
        host,
        state.take(torch.tensor([2, 0])),
        adapters=("skill",),
        strength={},
        max_new_tokens=3,
        eos_id=-1,
    )
    assert first == again
    assert part == [first[2], first[0]]
    assert all(
        torch.equal(old, new) for old, (new, _) in zip(before, state.keys_values, strict=True)
    )


def test_gradients_reach_the_branch_through_the_cache(host: AdapterHost) -> None:
    host.train_only("safety")
    answer = torch.randint(3, 250, (3, 4), generator=draw(5))
    logits = continue_logits(
        host,
        state_of(host),
        answer,
        torch.ones_like(answer),
        adapters=("skill", "safety"),
        strength={"safety": 0.5},
    )
    logits.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in host["safety"].parameters())
    assert all(p.grad is None for p in host["skill"].parameters())
