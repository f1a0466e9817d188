"""What an adapter's routing did on a batch, site by site: spread, use, and what it has to do with
given clusters. It knows neither statistics nor missions.

Legend: B rows, T positions, R code size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bem.context import RoutingContext
from bem.data import Batch
from bem.errors import NoCodeError
from bem.injection import AdapterHost
from bem.interfaces import Adapter


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SiteRouting:
    """The codes of one batch at one site."""

    site: str
    layer: int
    codes_BR: Tensor
    """Each row's code, a mean over its real tokens."""
    row_variance: float
    """Variance between rows, averaged over the code: 0 where all contexts are treated alike."""
    token_variance: float
    """Variance over the tokens of a row, averaged over rows and code: 0 for a sequence code."""
    effective: float
    """exp(entropy) of the mean size of each entry: how many of the R are in use."""
    separation: float
    """Share of the row variance that lies between the batch's clusters (eta squared); NaN where
    rows do not differ."""


def routing_trace(
    host: AdapterHost,
    name: str,
    batch: Batch,
    *,
    make_routing: Callable[[], RoutingContext] | None = None,
) -> tuple[SiteRouting, ...]:
    """One record a site of adapter `name`, acting alone, in model order."""
    adapter = host[name]
    context = batch.routing() if make_routing is None else make_routing()
    context.adapters, context.record = (name,), True
    with torch.inference_mode(), _token_codes(adapter, context, name) as token_codes:
        host.hidden_states(batch.input_ids_BT, batch.attention_mask_BT, routing=context)
    found = token_codes | context.site_codes.get(name, {})
    if len(found) < len(adapter.sites):
        raise NoCodeError(f"Adapter '{name}' computes no code: it is static.")
    mask_BT = batch.attention_mask_BT.bool()
    return tuple(
        _record(adapter, index, found[index].float(), mask_BT, batch.clusters)
        for index in range(len(adapter.sites))
    )


def by_layer(trace: Sequence[SiteRouting]) -> dict[int, dict[str, float]]:
    """Means over the sites of each decoder layer."""
    layers: dict[int, list[SiteRouting]] = {}
    for record in trace:
        layers.setdefault(record.layer, []).append(record)
    keys = ("row_variance", "token_variance", "effective", "separation")
    return {
        layer: {key: sum(getattr(r, key) for r in records) / len(records) for key in keys}
        for layer, records in sorted(layers.items())
    }


@contextmanager
def _token_codes(
    adapter: Adapter, context: RoutingContext, name: str
) -> Iterator[dict[int, Tensor]]:
    """The code that each layer itself adds to the trace in its forward, by index of its site."""
    found: dict[int, Tensor] = {}

    def keep(index: int) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, args: object, out: object) -> None:
            codes = context.trace.get(name, [])
            if len(codes) > seen[0]:
                found[index] = codes[-1]
            seen[0] = len(codes)

        return hook

    def start(module: nn.Module, args: object) -> None:
        seen[0] = len(context.trace.get(name, []))

    seen = [0]
    handles = [layer.register_forward_pre_hook(start) for layer in adapter.layers]
    handles += [layer.register_forward_hook(keep(i)) for i, layer in enumerate(adapter.layers)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _record(
    adapter: Adapter, index: int, codes_BTR: Tensor, mask_BT: Tensor, clusters: Sequence[str]
) -> SiteRouting:
    weight_BT1 = mask_BT.unsqueeze(-1).float()
    codes_BTR = codes_BTR.expand(-1, mask_BT.shape[1], -1)
    count_B1 = weight_BT1.sum(1)
    codes_BR = (codes_BTR * weight_BT1).sum(1) / count_B1
    off_BTR = (codes_BTR - codes_BR.unsqueeze(1)).square() * weight_BT1
    size_R = codes_BR.abs().mean(0)
    share_R = size_R / size_R.sum().clamp_min(1e-12)
    total = codes_BR.var(0, unbiased=False).mean()
    between = _between(codes_BR, clusters)
    return SiteRouting(
        site=adapter.sites[index].name,
        layer=adapter.sites[index].layer,
        codes_BR=codes_BR,
        row_variance=float(total),
        token_variance=float((off_BTR.sum(1) / count_B1).mean()),
        effective=float(torch.special.entr(share_R).sum().exp()),
        separation=float(between / total) if float(total) > 1e-12 else float("nan"),
    )


def _between(codes_BR: Tensor, clusters: Sequence[str]) -> Tensor:
    """The variance of the rows' cluster means."""
    means_BR = torch.empty_like(codes_BR)
    for cluster in set(clusters):
        member_B = torch.tensor([c == cluster for c in clusters], device=codes_BR.device)
        means_BR[member_B] = codes_BR[member_B].mean(0)
    return means_BR.var(0, unbiased=False).mean()
