"""Residual FiLM as plain loops, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, R rank, S sites.
"""

from __future__ import annotations

from torch import Tensor

from bem.adapters.film.layer import FilmAdapter, FilmLayer


def site_output(
    adapter: FilmAdapter, index: int, x_BTI: Tensor, y_BTO: Tensor, codes_BSR: Tensor
) -> Tensor:
    """y[b, t, o] (1 + s gamma[b, o]) + s beta[b, o], s = strength * alpha / rank."""
    layer = adapter.layers[index]
    assert isinstance(layer, FilmLayer)
    out_BTO = y_BTO.clone()
    for b in range(y_BTO.shape[0]):
        for t in range(y_BTO.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            for o in range(y_BTO.shape[2]):
                gamma = beta = 0.0
                for r in range(adapter.config.rank):
                    code = float(codes_BSR[b, index, r])
                    gamma += code * float(layer.gamma_OR[o, r])
                    beta += code * float(layer.beta_OR[o, r])
                y = float(y_BTO[b, t, o])
                out_BTO[b, t, o] = y + strength * layer.scale * (gamma * y + beta)
    return out_BTO
