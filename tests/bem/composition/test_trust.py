"""Legend: O outputs, I inputs, R rank."""

from __future__ import annotations

import pytest
import torch

from bem import AdapterHost, BaseModel, RoutingContext, make_config
from bem.adapters.generated import GeneratedAdapter
from bem.composition.trust import gram, into_trust_region, squared_norm


def factors(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    down_RI = torch.randn(3, 7, generator=draw)
    up_OR = torch.randn(5, 3, generator=draw)
    return down_RI, up_OR, torch.randn(4, 2, 3, generator=draw)


def test_norms_equal_those_of_the_materialised_delta() -> None:
    down_RI, up_OR, code_XYR = factors()
    squared_XY = squared_norm(code_XYR, gram(down_RI, up_OR))
    for x in range(4):
        for y in range(2):
            delta_OI = up_OR @ torch.diag(code_XYR[x, y]) @ down_RI
            assert float(squared_XY[x, y]) == pytest.approx(float((delta_OI**2).sum()), rel=1e-5)


def test_only_codes_outside_are_scaled_and_onto_the_boundary() -> None:
    down_RI, up_OR, code_XYR = factors()
    gram_RR = gram(down_RI, up_OR)
    radius = float(squared_norm(code_XYR, gram_RR).sqrt().median())
    held = into_trust_region(code_XYR, gram_RR, radius)
    before, after = (squared_norm(c, gram_RR).sqrt() for c in (code_XYR, held))
    inside = before <= radius
    assert 0 < int(inside.sum()) < inside.numel()
    assert torch.equal(held[inside], code_XYR[inside])
    torch.testing.assert_close(after[~inside], torch.full_like(after[~inside], radius))


def test_gradients_are_those_of_the_formula_and_finite_at_zero() -> None:
    down_RI, up_OR, code_XYR = (t.double() for t in factors())
    gram_RR = gram(down_RI, up_OR)
    code = code_XYR.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda c: into_trust_region(c, gram_RR, 1.0), (code,))
    up_zero = torch.zeros(5, 3, requires_grad=True)
    out = into_trust_region(code_XYR.float(), gram(down_RI.float(), up_zero), 1.0)
    (gradient,) = torch.autograd.grad(out.sum(), up_zero)
    assert torch.equal(out, code_XYR.float())
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("code", ["sequence", "chunk", "token", "hierarchy"])
def test_every_delta_of_a_generated_bem_stays_inside(llama: BaseModel, code: str) -> None:
    """Read off the outputs: a delta's effect on a unit input cannot exceed its Frobenius norm."""
    host = AdapterHost(llama)
    draw = torch.Generator().manual_seed(0)
    config = make_config("generated", rank=3, code=code, chunk_size=2, trust_radius=0.1)
    adapter = host.add("held", config, generator=draw)
    assert isinstance(adapter, GeneratedAdapter)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw))
    worst = []

    def look(module: object, args: tuple[torch.Tensor, torch.Tensor], out: torch.Tensor) -> None:
        worst.append(float(((out - args[1]).norm(dim=-1) / args[0].norm(dim=-1)).max()))

    for layer in adapter.layers:
        layer.register_forward_hook(look)
    host.use("held")
    ids_BT = torch.randint(3, 250, (4, 9), generator=draw)
    prefix_BT = (torch.arange(9) < 4).expand(4, -1)
    with torch.no_grad():
        host(ids_BT, routing=RoutingContext(prefix_mask_BT=prefix_BT))
    assert len(worst) == len(adapter.sites)
    assert 0.01 < max(worst) <= 0.1 + 1e-5
