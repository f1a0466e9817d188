"""Legend: B rows, R code size."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from bem import AdapterHost, BaseModel, make_config
from bem.data import Batch
from bem.errors import InvalidInputError
from bem.routing.trace import by_layer, routing_trace


def stirred(host: AdapterHost, kind: str, **fields: object) -> None:
    draw = torch.Generator().manual_seed(1)
    adapter = host.add("traced", make_config(kind, **fields), generator=draw)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))


@pytest.mark.parametrize(
    ("kind", "fields", "by_token"),
    [
        ("generated", {}, False),
        ("generated", {"code": "token"}, True),
        ("generated", {"code": "chunk", "chunk_size": 2}, True),
        ("generated", {"code": "hierarchy", "chunk_size": 2}, True),
        ("banked", {"per_site": True}, False),
        ("banked", {"router": "token"}, True),
        ("moelora", {}, True),
        ("kronecker", {}, False),
    ],
)
def test_every_site_has_a_record(
    llama: BaseModel,
    planted_batch: Callable[..., Batch],
    kind: str,
    fields: dict[str, object],
    by_token: bool,
) -> None:
    host = AdapterHost(llama)
    stirred(host, kind, **fields)
    batch = planted_batch(8, torch.Generator().manual_seed(0))
    trace = routing_trace(host, "traced", batch)
    adapter = host["traced"]
    assert [record.site for record in trace] == [site.name for site in adapter.sites]
    assert [record.layer for record in trace] == [site.layer for site in adapter.sites]
    for record in trace:
        size = record.codes_BR.shape[1]
        assert 1 <= record.effective <= size + 1e-4
        assert record.row_variance > 0
        assert (record.token_variance > 1e-10) == by_token
        assert 0 <= record.separation <= 1
    layers = by_layer(trace)
    assert sorted(layers) == sorted({site.layer for site in adapter.sites})
    first = [r.effective for r in trace if r.layer == trace[0].layer]
    assert layers[trace[0].layer]["effective"] == pytest.approx(sum(first) / len(first))


def test_figures_by_hand_from_given_codes(
    llama: BaseModel, planted_batch: Callable[..., Batch]
) -> None:
    host = AdapterHost(llama)
    stirred(host, "generated", rank=2)
    batch = planted_batch(8, torch.Generator().manual_seed(0))
    sites = len(host["traced"].sites)
    value_B = torch.tensor([float(cluster) for cluster in batch.clusters])
    code_BR = torch.stack([value_B, torch.zeros(8)], dim=1)
    codes = code_BR[:, None].expand(-1, sites, -1)

    trace = routing_trace(
        host, "traced", batch, make_routing=lambda: batch.routing(codes={"traced": codes})
    )
    for record in trace:
        assert torch.equal(record.codes_BR, code_BR)
        assert record.row_variance == pytest.approx(1.25 / 2)
        assert record.token_variance == 0.0
        assert record.effective == pytest.approx(1.0)
        assert record.separation == pytest.approx(1.0)
    same = torch.ones(8, sites, 2)
    flat = routing_trace(
        host, "traced", batch, make_routing=lambda: batch.routing(codes={"traced": same})
    )
    assert flat[0].row_variance == 0.0
    assert flat[0].effective == pytest.approx(2.0)
    assert math.isnan(flat[0].separation)


def test_a_static_adapter_has_no_trace(
    llama: BaseModel, planted_batch: Callable[..., Batch]
) -> None:
    host = AdapterHost(llama)
    stirred(host, "lora")
    batch = planted_batch(2, torch.Generator().manual_seed(0))
    with pytest.raises(InvalidInputError, match="it is static"):
        routing_trace(host, "traced", batch)
