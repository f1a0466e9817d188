"""Rescale as a plain loop, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs.
"""

from __future__ import annotations

from torch import Tensor

from bem.adapters.rescale.layer import RescaleAdapter, RescaleLayer


def site_output(adapter: RescaleAdapter, index: int, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
    """y[b, t, o] * (1 + strength * s[o])."""
    layer = adapter.layers[index]
    assert isinstance(layer, RescaleLayer)
    rows = adapter.state.strength_rows
    out_BTO = y_BTO.clone()
    for b in range(y_BTO.shape[0]):
        for t in range(y_BTO.shape[1]):
            strength = adapter.state.strength
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            for o, s in enumerate(layer.scale_O):
                out_BTO[b, t, o] *= 1 + strength * s
    return out_BTO
