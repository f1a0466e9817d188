"""How large deltas are and how they meet, from factors alone: no delta is ever built.

With dW_i = U_i V_i, every inner product <dW_i, dW_j>_F = sum((U_i^T U_j) o (V_i V_j^T)) is one of
small Gram matrices. A context-dependent adapter has a delta for each code: give the code. It knows
neither models nor statistics.

Legend: O outputs, I inputs, R rank, A adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bem.errors import InvalidInputError
from bem.forward.wrapping import AdaptedLinear
from bem.injection import AdapterHost
from bem.interfaces import Factors


def inner_product(first: Factors, second: Factors) -> Tensor:
    """<dW_1, dW_2>_F of two low-rank deltas of one site."""
    (down_RI, up_OR), (down_SI, up_OS) = first, second
    return ((up_OR.T @ up_OS) * (down_RI @ down_SI.T)).sum()


def spectral_norm(factors: Factors) -> Tensor:
    """The largest singular value of a low-rank delta, from the R x R middle of two QRs."""
    norm: Tensor = torch.linalg.matrix_norm(_middle(factors), ord=2)
    return norm


def effective_rank(factors: Factors) -> float:
    """exp(entropy) of the normalised singular values (Roy and Vetterli 2007); 0 for no delta."""
    values_R = torch.linalg.svdvals(_middle(factors))
    total = float(values_R.sum())
    return float(torch.special.entr(values_R / total).sum().exp()) if total > 0 else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteNorms:
    """One adapter at one site, at strength 1."""

    site: str
    layer: int
    frobenius: float
    spectral: float
    relative: float
    """Frobenius norm over that of the base's weight."""
    effective_rank: float


def norm_audit(
    host: AdapterHost, name: str, *, codes_SR: Tensor | None = None
) -> tuple[SiteNorms, ...]:
    """The norms of adapter `name` at each of its sites; `codes_SR` where they depend on a code."""
    adapter = host[name]
    found = []
    for index, site in enumerate(adapter.sites):
        if codes_SR is None:
            factors = adapter.factors(index)
        else:
            factors = adapter.coded_factors(index, codes_SR[index])
        frobenius = float(inner_product(factors, factors).clamp_min(0).sqrt())
        found.append(
            SiteNorms(
                site=site.name,
                layer=site.layer,
                frobenius=frobenius,
                spectral=float(spectral_norm(factors)),
                relative=frobenius / float(_base_weight(host, site.name).norm()),
                effective_rank=effective_rank(factors),
            )
        )
    return tuple(found)


def overlap_matrix(host: AdapterHost, names: Sequence[str]) -> Tensor:
    """The cosines (A, A) between whole static deltas: <dW_i, dW_j> over both norms, all sites.

    0 off the diagonal where two adapters change the weights in unrelated directions; an adapter
    whose delta is zero has cosines 0.
    """
    by_site = [
        {site.name: host[name].factors(i) for i, site in enumerate(host[name].sites)}
        for name in names
    ]
    gram_AA = torch.zeros(len(names), len(names), dtype=torch.float64)
    for i, first in enumerate(by_site):
        for j, second in enumerate(by_site[: i + 1]):
            shared = [site for site in first if site in second]
            total = sum(float(inner_product(first[site], second[site])) for site in shared)
            gram_AA[i, j] = gram_AA[j, i] = total
    norm_A = gram_AA.diagonal().clamp_min(0).sqrt()
    scale_AA = torch.outer(norm_A, norm_A)
    return torch.where(scale_AA > 0, gram_AA / scale_AA.clamp_min(1e-300), 0.0)


def stack_norm(factors: Sequence[Factors]) -> Tensor:
    """||sum of the deltas||_F at one site, where several adapters act together."""
    total = torch.stack([inner_product(a, b) for a in factors for b in factors]).sum()
    return total.clamp_min(0).sqrt()


def trust_scales(host: AdapterHost, names: Sequence[str], radius: float) -> dict[str, float]:
    """min(1, radius / norm) by site: what keeps the sum of static deltas inside at each site."""
    if radius <= 0:
        raise InvalidInputError(f"radius is {radius}; it must be above 0.")
    factors: dict[str, list[Factors]] = {}
    for name in names:
        for index, site in enumerate(host[name].sites):
            factors.setdefault(site.name, []).append(host[name].factors(index))
    norms = {site: float(stack_norm(found)) for site, found in factors.items()}
    return {site: radius / norm if norm > radius else 1.0 for site, norm in norms.items()}


@torch.no_grad()
def project(host: AdapterHost, name: str, radius: float) -> dict[str, float]:
    """Scale a static adapter in place so that ||dW||_F <= radius at every site.

    dW <- dW min(1, radius / ||dW||_F); to be called after a step (projected gradient). Returns the
    scales by site.
    """
    adapter = host[name]
    scales = trust_scales(host, [name], radius)
    for index, site in enumerate(adapter.sites):
        if scales[site.name] < 1:
            adapter.scale_delta(index, scales[site.name])
    return scales


def _middle(factors: Factors) -> Tensor:
    """R_U R_V^T, which has the delta's singular values."""
    down_RI, up_OR = factors
    upper_up: Tensor = torch.linalg.qr(up_OR.double(), mode="r").R
    upper_down: Tensor = torch.linalg.qr(down_RI.T.double(), mode="r").R
    return upper_up @ upper_down.T


def _base_weight(host: AdapterHost, path: str) -> Tensor:
    linear = host.model.get_submodule(path)
    inner = linear.base if isinstance(linear, AdaptedLinear) else linear
    weight = inner.weight
    assert isinstance(weight, Tensor)
    if not weight.is_floating_point():
        raise InvalidInputError(f"Site '{path}' is quantised: its weight has no norm as it is.")
    return weight.detach().float()
