"""Value head, multiplier, overlap measure, the orthogonal adapter's guarantee, merging."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bem import AdapterHost, RoutingContext, load_base, make_config
from bem.errors import InvalidInputError
from bem.interfaces import Adapter
from bem.merging import merged
from bem.safety import PidMultiplier, ValueHead, span_overlap
from bem.testing import write_tiny_base


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=["llama", "gpt2"], scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base") / request.param, request.param)


@pytest.fixture
def host(folder: Path) -> Iterator[AdapterHost]:
    made = AdapterHost(load_base(folder))
    stir(made.add("skill", make_config("lora", rank=3), generator=draw(0)), 1)
    made.freeze()
    yield made
    made.detach()


def stir(adapter: Adapter, seed: int) -> Adapter:
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw(seed)))
    return adapter


def test_orthogonal_adapter_reads_and_writes_outside_the_skill(host: AdapterHost) -> None:
    config = make_config("orthogonal", rank=4, avoid="skill", basis_rank=5)
    safety = stir(host.add("safety", config, generator=draw(2)), 3)
    overlap = span_overlap(host["skill"], safety)
    assert overlap.worst > 1 - 1e-5
    for index in range(len(safety.sites)):
        down_skill, up_skill = host["skill"].factors(index)
        down, up = safety.factors(index)
        delta = up @ down
        assert float((delta @ down_skill.T).abs().max()) < 1e-4  # what the skill reads
        assert float((up_skill.T @ delta).abs().max()) < 1e-4  # where the skill writes
        assert float(delta.abs().max()) > 1e-2


def test_frozen_factors_are_projected_once_and_again_when_they_change(host: AdapterHost) -> None:
    safety = host.add("safety", make_config("orthogonal", rank=2, avoid="skill"), generator=draw(2))
    stir(safety, 3)
    host.freeze()
    layer = safety.layers[0]
    first, second = layer.projected(), layer.projected()
    assert first[0] is second[0]
    stir(safety, 4)
    third = layer.projected()
    assert not torch.equal(first[0], third[0])
    safety.requires_grad_(True)
    torch.testing.assert_close(layer.projected(), third)
    layer.requires_grad_(True)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    torch.stack([factor.square().sum() for factor in layer.projected()]).sum().backward()
    optimizer.step()
    layer.requires_grad_(False)
    assert not torch.equal(layer.projected()[0], third[0])


def test_a_plain_lora_overlaps(host: AdapterHost) -> None:
    other = stir(host.add("other", make_config("lora", rank=4), generator=draw(2)), 3)
    assert span_overlap(host["skill"], other).worst < 0.9
    assert span_overlap(host["skill"], host["skill"]).worst == pytest.approx(0.0, abs=1e-6)


def test_orthogonal_names_what_it_does_not_find(host: AdapterHost) -> None:
    with pytest.raises(InvalidInputError, match=r"'skil'.*skill"):
        host.add("safety", make_config("orthogonal", avoid="skil"), generator=draw(2))
    with pytest.raises(InvalidInputError, match="basis_rank is 2"):
        host.add(
            "safety", make_config("orthogonal", avoid="skill", basis_rank=2), generator=draw(2)
        )


def test_merging_is_the_adapter_and_leaves_no_trace(host: AdapterHost) -> None:
    ids = torch.randint(3, 250, (2, 6), generator=draw(4))
    before = {name: p.clone() for name, p in host.model.named_parameters()}
    with torch.no_grad():
        acting = host(ids, routing=RoutingContext(adapters=("skill",))).logits
        with merged(host, "skill"):
            folded = host(ids).logits
        after = host(ids).logits
        plain = host(ids, routing=RoutingContext(adapters=())).logits
    torch.testing.assert_close(folded, acting, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(folded, plain, atol=1e-3)
    assert torch.equal(after, plain)
    assert all(torch.equal(before[name], p) for name, p in host.model.named_parameters())


def test_merging_restores_after_an_error_and_refuses_twice(host: AdapterHost) -> None:
    before = {name: p.clone() for name, p in host.model.named_parameters()}
    with pytest.raises(RuntimeError, match="inside"), merged(host, "skill"):
        raise RuntimeError("inside")
    assert all(torch.equal(before[name], p) for name, p in host.model.named_parameters())
    host.use("skill")
    with pytest.raises(InvalidInputError, match="twice"), merged(host, "skill"):
        pass


@pytest.mark.parametrize("width", [0, 5])
def test_value_head_counts_itself_and_starts_undecided(width: int) -> None:
    head = ValueHead(12, width=width, generator=draw(0))
    assert sum(p.numel() for p in head.parameters()) == ValueHead.count_parameters(12, width)
    h_BD = torch.randn(4, 12, generator=draw(1))
    assert torch.equal(head(h_BD), torch.zeros(4))
    head(h_BD).sum().backward()
    assert head.head_1X.grad is not None


def test_value_head_separates_what_is_separable() -> None:
    head = ValueHead(12, generator=draw(0))
    h_BD = torch.randn(64, 12, generator=draw(1))
    label_B = (h_BD[:, 0] > h_BD[:, 1]).float()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(head(h_BD), label_B).backward()
        optimizer.step()
    assert float(((head(h_BD) > 0) == label_B.bool()).float().mean()) > 0.95


def test_multiplier_follows_its_formula() -> None:
    pid = PidMultiplier(kp=2.0, ki=0.5, kd=1.0, smoothing=0.0, largest=50.0)
    integral, before = 0.0, None
    for error in (0.3, 0.6, -0.2, -2.0, 0.1):
        integral = max(0.0, integral + error)
        rise = 0.0 if before is None else max(0.0, error - before)
        expected = max(0.0, 2.0 * error + 0.5 * integral + rise)
        assert pid.update(error) == pytest.approx(expected)
        before = error


def test_multiplier_solves_a_constrained_quadratic() -> None:
    """min (x - 3)^2 with x <= 1: the multiplier settles at 4, x at 1."""
    pid, x = PidMultiplier(kp=0.5, ki=0.05, smoothing=0.0), 0.0
    for _ in range(4000):
        x -= 0.02 * (2 * (x - 3) + pid.value)
        pid.update(x - 1.0)
    assert math.isclose(x, 1.0, abs_tol=0.02)
    assert math.isclose(pid.value, 4.0, abs_tol=0.1)
