"""What routing did with given inputs, layer by layer, to be read by people or as JSON.

`bem.routing.trace` measures; this sums it up by decoder layer. It knows no kind of adapter.

Legend: B rows, R code size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bem.context import RoutingContext
from bem.data import Batch
from bem.errors import NoCodeError
from bem.injection import AdapterHost
from bem.routing.trace import SiteRouting, routing_trace


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerRouting:
    """One adapter at one decoder layer."""

    adapter: str
    layer: int
    sites: tuple[str, ...]
    """The linears that it changes there."""
    codes: tuple[Tensor, ...]
    """The code of each input at each of them, (B, R): a mean over its tokens."""
    load: tuple[float, ...]
    """The mean share of each entry of the code, |c_r| / sum |c|; sums to 1. For a bank: of each
    expert."""
    entropy: float
    """Of one input's shares, in nats, a mean over inputs and sites: log R where all entries count
    alike, 0 where one has all."""
    row_variance: float
    """Of the code between inputs: 0 where all inputs are treated alike."""
    confidence: tuple[float, ...] | None
    """How sure the controller is of each input; None: the adapter has no confidence head."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RoutingAnalysis:
    """The layers of all acting adapters."""

    inputs: tuple[str, ...]
    layers: tuple[LayerRouting, ...]
    without_codes: tuple[str, ...]
    """Acting adapters that compute no code (static ones), or record none."""

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON has it; codes as nested lists by site."""
        return {
            "inputs": list(self.inputs),
            "without_codes": list(self.without_codes),
            "layers": [
                {
                    "adapter": record.adapter,
                    "layer": record.layer,
                    "codes": {
                        site: codes_BR.tolist()
                        for site, codes_BR in zip(record.sites, record.codes, strict=True)
                    },
                    "load": list(record.load),
                    "entropy": record.entropy,
                    "row_variance": record.row_variance,
                    "confidence": None if record.confidence is None else list(record.confidence),
                }
                for record in self.layers
            ],
        }

    def __str__(self) -> str:
        lines = [f"{'adapter':12s} layer  entropy  variance  confidence  load"]
        for record in self.layers:
            sure = "-"
            if record.confidence is not None:
                sure = f"{sum(record.confidence) / len(record.confidence):.2f}"
            load = " ".join(f"{share:.2f}" for share in record.load)
            lines.append(
                f"{record.adapter:12s} {record.layer:5d}  {record.entropy:7.3f}  "
                f"{record.row_variance:8.4f}  {sure:>10s}  {load}"
            )
        if self.without_codes:
            lines.append(f"without codes: {', '.join(self.without_codes)}")
        return "\n".join(lines)


def analyse(
    host: AdapterHost,
    names: Sequence[str],
    batch: Batch,
    inputs: Sequence[str],
    make_routing: Callable[[], RoutingContext],
) -> RoutingAnalysis:
    """Each of the adapters in turn, acting alone, on the batch of these inputs."""
    layers: list[LayerRouting] = []
    without = []
    for name in names:
        context = make_routing()
        try:
            trace = routing_trace(host, name, batch, make_routing=lambda made=context: made)  # type: ignore[misc]
        except NoCodeError:
            without.append(name)
            continue
        sure = _confidence(host, name, context)
        for layer in sorted({record.layer for record in trace}):
            layers.append(_layer(name, [r for r in trace if r.layer == layer], sure))
    return RoutingAnalysis(inputs=tuple(inputs), layers=tuple(layers), without_codes=tuple(without))


def _layer(
    name: str, records: Sequence[SiteRouting], confidence: tuple[float, ...] | None
) -> LayerRouting:
    shares = [_shares(record.codes_BR) for record in records]
    width = max(share_BR.shape[1] for share_BR in shares)
    even = [torch.nn.functional.pad(s.mean(0), (0, width - s.shape[1])) for s in shares]
    entropy = torch.stack([torch.special.entr(s).sum(1).mean() for s in shares]).mean()
    return LayerRouting(
        adapter=name,
        layer=records[0].layer,
        sites=tuple(record.site for record in records),
        codes=tuple(record.codes_BR.cpu() for record in records),
        load=tuple(torch.stack(even).mean(0).tolist()),
        entropy=float(entropy),
        row_variance=sum(record.row_variance for record in records) / len(records),
        confidence=confidence,
    )


def _shares(codes_BR: Tensor) -> Tensor:
    size_BR = codes_BR.abs()
    return size_BR / size_BR.sum(1, keepdim=True).clamp_min(1e-12)


def _confidence(host: AdapterHost, name: str, context: RoutingContext) -> tuple[float, ...] | None:
    head = host[name].confidence
    logit_B = context.signals.get(name, {}).get("confidence_logit")
    if head is None or logit_B is None:
        return None
    p_B = torch.sigmoid(logit_B.detach() / head.temperature_1)
    return tuple(p_B.tolist())
