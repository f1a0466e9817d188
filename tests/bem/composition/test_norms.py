"""Against deltas built in full. Legend: O outputs, I inputs, R rank."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bem import AdapterHost, BaseModel, RoutingContext, load_base, make_config
from bem.composition.interference import interference
from bem.composition.norms import (
    effective_rank,
    inner_product,
    norm_audit,
    overlap_matrix,
    project,
    spectral_norm,
    stack_norm,
    trust_scales,
)
from bem.errors import InvalidInputError
from bem.interfaces import Factors
from bem.testing import write_tiny_base


def deltas(host: AdapterHost, name: str) -> list[Tensor]:
    adapter = host[name]
    pairs = [adapter.factors(index) for index in range(len(adapter.sites))]
    return [up_OR @ down_RI for down_RI, up_OR in pairs]


def stirred(host: AdapterHost, name: str, seed: int, kind: str = "lora", **fields: object) -> None:
    draw = torch.Generator().manual_seed(seed)
    adapter = host.add(name, make_config(kind, **{"rank": 3, **fields}), generator=draw)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))


def test_products_norms_and_ranks_equal_those_of_the_full_matrices() -> None:
    draw = torch.Generator().manual_seed(0)
    pairs: list[Factors] = [
        (torch.randn(r, 7, generator=draw), torch.randn(5, r, generator=draw)) for r in (2, 3)
    ]
    full = [up_OR @ down_RI for down_RI, up_OR in pairs]
    assert float(inner_product(*pairs)) == pytest.approx(float((full[0] * full[1]).sum()), rel=1e-4)
    assert float(stack_norm(pairs)) == pytest.approx(float((full[0] + full[1]).norm()), rel=1e-5)
    for factors, delta_OI in zip(pairs, full, strict=True):
        values = torch.linalg.svdvals(delta_OI.double())
        assert float(spectral_norm(factors)) == pytest.approx(float(values[0]), rel=1e-5)
        share = values / values.sum()
        entropy = float(-(share[share > 1e-12] * share[share > 1e-12].log()).sum())
        assert effective_rank(factors) == pytest.approx(
            torch.tensor(entropy).exp().item(), rel=1e-4
        )
    assert effective_rank((torch.zeros(2, 7), torch.zeros(5, 2))) == 0.0


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_audit_reads_every_site(tmp_path: Path, family: str) -> None:
    base = load_base(write_tiny_base(tmp_path / family, family))
    host = AdapterHost(base)
    stirred(host, "a", 1)
    weights = [base.model.get_submodule(s.name).weight for s in host["a"].sites]
    for found, delta_OI, weight, site in zip(
        norm_audit(host, "a"), deltas(host, "a"), weights, host["a"].sites, strict=True
    ):
        assert (found.site, found.layer) == (site.name, site.layer)
        assert found.frobenius == pytest.approx(float(delta_OI.norm()), rel=1e-4)
        assert found.relative == pytest.approx(float(delta_OI.norm() / weight.norm()), rel=1e-4)
        assert found.spectral <= found.frobenius
        assert 1 <= found.effective_rank <= 3


@torch.no_grad()
@pytest.mark.parametrize(("kind", "size"), [("generated", 3), ("banked", 4)])
def test_the_audit_of_a_code_is_that_of_the_delta_that_acts(
    llama: BaseModel, kind: str, size: int
) -> None:
    """The delta is read off the site's outputs on unit inputs."""
    host = AdapterHost(llama)
    stirred(host, "bem", 1, kind)
    adapter = host["bem"]
    code_R = torch.rand(size, generator=torch.Generator().manual_seed(2))
    found = norm_audit(host, "bem", codes_SR=code_R.expand(len(adapter.sites), -1))
    adapter.state.codes = [code_R.view(1, 1, -1)] * len(adapter.sites)
    site, layer = adapter.sites[0], adapter.layers[0]
    outputs = layer(
        torch.eye(site.in_features)[None], torch.zeros(1, site.in_features, site.out_features)
    )
    assert found[0].frobenius == pytest.approx(float(outputs.norm()), rel=1e-4)
    with pytest.raises(InvalidInputError, match="depends on its context"):
        norm_audit(host, "bem")
    if kind == "generated":
        stirred(host, "held", 1, kind, trust_radius=0.5)
        held = norm_audit(host, "held", codes_SR=code_R.expand(len(adapter.sites), -1))
        assert found[0].frobenius > 0.5
        assert held[0].frobenius == pytest.approx(0.5, rel=1e-4)


def test_overlaps_are_cosines_of_all_weights_together(llama: BaseModel) -> None:
    host = AdapterHost(llama)
    for seed, name in enumerate(("a", "b")):
        stirred(host, name, seed)
    stirred(host, "part", 7, targets="mlp")
    host.add("zero", make_config("lora", rank=1), generator=torch.Generator().manual_seed(0))
    matrix = overlap_matrix(host, ["a", "b", "part", "zero"])
    flat = {name: torch.cat([d.flatten() for d in deltas(host, name)]) for name in ("a", "b")}
    cosine = torch.nn.functional.cosine_similarity(flat["a"], flat["b"], dim=0)
    assert float(matrix[0, 1]) == pytest.approx(float(cosine), abs=1e-5)
    torch.testing.assert_close(matrix.diagonal()[:3], torch.ones(3, dtype=torch.float64))
    assert torch.equal(matrix, matrix.T)
    assert float(matrix[3].abs().sum()) == 0.0
    stirred(host, "apart", 9, "orthogonal", avoid="a", basis_rank=3)
    assert abs(float(overlap_matrix(host, ["a", "apart"])[0, 1])) < 1e-6


def test_projection_brings_each_site_inside_and_leaves_the_others(llama: BaseModel) -> None:
    host = AdapterHost(llama)
    stirred(host, "a", 1)
    stirred(host, "b", 2)
    before = deltas(host, "a")
    radius = float(torch.stack([d.norm() for d in before]).median())
    scales = project(host, "a", radius)
    for site, old, new in zip(host["a"].sites, before, deltas(host, "a"), strict=True):
        factor = min(1.0, radius / float(old.norm()))
        assert scales[site.name] == pytest.approx(factor, rel=1e-5)
        torch.testing.assert_close(new, old * factor)
    assert 0 < sum(s < 1 for s in scales.values()) < len(scales)
    both = trust_scales(host, ["a", "b"], radius)
    for site, first, second in zip(
        host["a"].sites, deltas(host, "a"), deltas(host, "b"), strict=True
    ):
        factor = min(1.0, radius / float((first + second).norm()))
        assert both[site.name] == pytest.approx(factor, rel=1e-4)
    with pytest.raises(InvalidInputError, match="above 0"):
        trust_scales(host, ["a"], 0.0)
    stirred(host, "bem", 3, "generated")
    with pytest.raises(InvalidInputError, match="depends on its context"):
        project(host, "bem", 1.0)
    with pytest.raises(InvalidInputError, match="could be scaled"):
        host["bem"].scale_delta(0, 0.5)
    stirred(host, "film", 3, "film")
    with pytest.raises(InvalidInputError, match="a code gives no factors"):
        host["film"].coded_factors(0, torch.ones(3))


def test_the_interference_of_a_planted_table() -> None:
    table = {("a",): 0.8, ("b",): 0.5, ("c",): 0.4}
    calls = []

    def score(adapters: tuple[str, ...], task: str) -> float:
        calls.append((adapters, task))
        own = table[(task[-1],)]
        return own - 0.1 * ("b" in adapters and task == "task a") - 0.04 * (len(adapters) == 3)

    found = interference({f"task {x}": x for x in "abc"}, score)
    assert len(calls) == 12
    matrix = found.matrix()
    assert matrix[0] == pytest.approx([0.0, -0.1 / 0.8, 0.0])
    assert matrix[1] == pytest.approx([0.0, 0.0, 0.0])
    assert found.worst_pair() == ("task a", "task b", pytest.approx(-0.125))
    assert found.regressions() == pytest.approx(
        {"task a": -0.14 / 0.8, "task b": -0.04 / 0.5, "task c": -0.04 / 0.4}
    )
    calls.clear()
    two = interference({"task a": "a", "task b": "b"}, score)
    assert len(calls) == 4
    assert two.regressions() == pytest.approx({"task a": -0.125, "task b": 0.0})
    with pytest.raises(InvalidInputError, match="at least two"):
        interference({"task a": "a"}, score)


@torch.no_grad()
def test_a_composition_scores_what_the_host_computes(llama: BaseModel) -> None:
    """The score of a set is taken with exactly these adapters on: they act, in this order."""
    host = AdapterHost(llama)
    stirred(host, "a", 1)
    stirred(host, "b", 2)
    ids_BT = torch.randint(3, 250, (2, 5), generator=torch.Generator().manual_seed(0))

    def score(adapters: tuple[str, ...], task: str) -> float:
        routing = RoutingContext(adapters=adapters)
        return float(host(ids_BT, routing=routing).logits.square().mean())

    found = interference({"x": "a", "y": "b"}, score)
    host.use("a")
    assert found.alone["x"] == float(host(ids_BT).logits.square().mean())
    host.use("a", "b")
    assert found.pairs["x", "y"] == float(host(ids_BT).logits.square().mean())
