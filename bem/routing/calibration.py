"""Is an adapter's confidence true? Labels by trying both paths, a loss to learn, a temperature.

A row's label: does the routed code, unfaded, give its target a lower loss than the static one? It
knows neither statistics nor missions.

Legend: B rows, N labelled rows or scored positions, S sites, R code size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bem.context import RoutingContext
from bem.data import IGNORED, Batch
from bem.errors import InvalidInputError
from bem.evaluate import target_logits, target_loss
from bem.injection import AdapterHost
from bem.routing.uncertainty import (
    ConfidenceHead,
    confidence_loss,
    expected_calibration_error,
    fit_temperature,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationReport:
    """What fitting the temperature on held-out rows did."""

    num_rows: int
    base_rate: float
    """Share of the rows where the routed code was the better one."""
    temperature: float
    """The one that now stands in the head."""
    ece_before: float
    ece_after: float
    nll_before: float
    """Mean cross-entropy in nats, with the temperature that stood before."""
    nll_after: float


def row_losses(host: AdapterHost, batch: Batch, routing: RoutingContext) -> Tensor:
    """The mean loss over each row's own target tokens, (B,)."""
    labels_BT = batch.labels_BT[:, 1:]
    scored_BT = labels_BT != IGNORED
    logits_NV = target_logits(host, batch, routing).float()
    nll_N = torch.nn.functional.cross_entropy(logits_NV, labels_BT[scored_BT], reduction="none")
    nll_BT = torch.zeros(labels_BT.shape, device=nll_N.device).masked_scatter(scored_BT, nll_N)
    return nll_BT.sum(1) / scored_BT.sum(1)


def confidence_term(host: AdapterHost, name: str, batch: Batch, context: RoutingContext) -> Tensor:
    """The head's cross-entropy on the rows of a forward that was just made with `context`.

    `context.record` must have been on. To be added, weighted, to the task's loss.
    """
    logit_B, routed_BSR = _signals(context, name)
    return confidence_loss(logit_B, _routed_is_better(host, name, batch, routed_BSR))


@torch.no_grad()
def labelled_logits(host: AdapterHost, name: str, batch: Batch) -> tuple[Tensor, Tensor]:
    """Each row's confidence logit and whether the routed code was the better one, (B,) both."""
    context = batch.routing(adapters=(name,), record=True)
    target_loss(host, batch, context)
    logit_B, routed_BSR = _signals(context, name)
    return logit_B, _routed_is_better(host, name, batch, routed_BSR)


def calibrate(
    host: AdapterHost, name: str, batches: Iterable[Batch], *, bins: int = 15
) -> CalibrationReport:
    """Fit the temperature of adapter `name` on held-out batches and leave it in its head."""
    head = _head(host, name)
    pairs = [labelled_logits(host, name, batch) for batch in batches]
    if not pairs:
        raise InvalidInputError("Calibration needs at least one batch.")
    logit_N = torch.cat([logit_B for logit_B, _ in pairs])
    right_N = torch.cat([right_B for _, right_B in pairs])
    before_N = logit_N / head.temperature_1
    temperature = fit_temperature(logit_N, right_N)
    head.temperature_1.fill_(temperature)
    after_N = logit_N / head.temperature_1
    return CalibrationReport(
        num_rows=len(right_N),
        base_rate=float(right_N.float().mean()),
        temperature=temperature,
        ece_before=expected_calibration_error(before_N.sigmoid(), right_N, bins=bins),
        ece_after=expected_calibration_error(after_N.sigmoid(), right_N, bins=bins),
        nll_before=float(confidence_loss(before_N, right_N)),
        nll_after=float(confidence_loss(after_N, right_N)),
    )


@torch.no_grad()
def _routed_is_better(host: AdapterHost, name: str, batch: Batch, routed_BSR: Tensor) -> Tensor:
    static_BSR = torch.full_like(routed_BSR, host[name].static_code())

    def losses(codes_BSR: Tensor) -> Tensor:
        context = batch.routing(adapters=(name,), codes={name: codes_BSR.detach()})
        return row_losses(host, batch, context)

    with host.aside():
        return losses(routed_BSR) < losses(static_BSR)


def _signals(context: RoutingContext, name: str) -> tuple[Tensor, Tensor]:
    signals = context.signals.get(name, {})
    if "confidence_logit" not in signals:
        raise InvalidInputError(
            f"Adapter '{name}' left no confidence: it needs uncertainty=True in its config, and a "
            "forward with RoutingContext(record=True)."
        )
    return signals["confidence_logit"], signals["routed_code"]


def _head(host: AdapterHost, name: str) -> ConfidenceHead:
    head = host[name].confidence
    if head is None:
        raise InvalidInputError(f"Adapter '{name}' has no confidence head (uncertainty=True).")
    return head
