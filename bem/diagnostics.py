"""Is the controller used? Code variance and the loss when codes are shuffled between rows.

A controller that has collapsed gives every prompt the same code: variance near 0 and no gap. Log
both in every run. It knows neither statistics nor missions.

Legend: B rows, S sites, R code size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bem.context import RoutingContext
from bem.data import Batch
from bem.errors import InvalidInputError
from bem.evaluate import target_loss
from bem.injection import AdapterHost


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeReport:
    """What one batch says about an adapter's codes."""

    variance: float
    """Variance over rows, averaged over everything else."""
    loss: float
    shuffled_loss: float
    """The loss when every row has another row's code."""

    @property
    def gap(self) -> float:
        """How much the right codes are worth, in nats a target token."""
        return self.shuffled_loss - self.loss


def code_variance(codes: Tensor) -> float:
    """Variance over the first dimension (rows), averaged over the others."""
    return float(codes.float().var(dim=0, unbiased=False).mean())


def shift(rows: int, generator: torch.Generator) -> Tensor:
    """A random permutation of rows without a fixed point: a rotation of a random order."""
    if rows < 2:
        raise InvalidInputError("Shuffling codes needs at least two rows.")
    order = torch.randperm(rows, generator=generator)
    permutation = torch.empty(rows, dtype=torch.long)
    permutation[order] = order.roll(1)
    return permutation


@torch.inference_mode()
def code_report(
    host: AdapterHost,
    name: str,
    batch: Batch,
    *,
    generator: torch.Generator,
    make_routing: Callable[[], RoutingContext] | None = None,
) -> CodeReport:
    """Code variance and shuffled-code gap of adapter `name`, acting alone, on one batch."""

    def context() -> RoutingContext:
        made = batch.routing() if make_routing is None else make_routing()
        made.adapters = (name,)
        return made

    own = context()
    own.record = True
    loss = target_loss(host, batch, own)
    codes = own.trace.get(name)
    if not codes:
        raise InvalidInputError(f"Adapter '{name}' computes no code: it is static.")
    permutation = shift(len(batch.ids), generator).to(host.base.device)
    other = context()
    other.code_map = lambda code: code[permutation]
    shuffled = target_loss(host, batch, other)
    variance = sum(code_variance(code) for code in codes) / len(codes)
    return CodeReport(variance=variance, loss=float(loss), shuffled_loss=float(shuffled))
