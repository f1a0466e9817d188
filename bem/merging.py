"""A static adapter folded into the base's weights for a while, and taken out again exactly.

For work that keeps one adapter frozen under others: the same function at the base's own price. The
original weights are copied before and put back after, so nothing drifts. It knows no kind of
adapter: one without a static delta refuses by itself (`Adapter.factors`).

Legend: I inputs, O outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from bem.errors import InvalidInputError
from bem.forward.wrapping import AdaptedLinear
from bem.injection import AdapterHost


@contextmanager
def merged(host: AdapterHost, name: str) -> Iterator[None]:
    """Inside, the base acts as if adapter `name` were on at strength 1; do not select it too.

    Raises:
        InvalidInputError: the adapter depends on its context, or is selected on the host.
    """
    if name in host.selected:
        raise InvalidInputError(f"Adapter '{name}' is selected: merged, it would act twice.")
    adapter = host[name]
    host.base.digest  # noqa: B018  (cached: it names the original weights, not the merged ones)
    deltas = [adapter.factors(index) for index in range(len(adapter.sites))]
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        for site, (down_RI, up_OR) in zip(adapter.sites, deltas, strict=True):
            linear = host.model.get_submodule(site.name)
            inner = linear.base if isinstance(linear, AdaptedLinear) else linear
            weight = inner.weight
            assert isinstance(weight, Tensor)
            weight = weight.data
            if not weight.is_floating_point():
                raise InvalidInputError(f"Site '{site.name}' is quantised: nothing to merge into.")
            kept.append((weight, weight.clone()))
            delta_OI = up_OR @ down_RI
            weight.add_((delta_OI.T if isinstance(inner, Conv1D) else delta_OI).to(weight.dtype))
        yield
    finally:
        with torch.no_grad():
            for weight, before in kept:
                weight.copy_(before)
