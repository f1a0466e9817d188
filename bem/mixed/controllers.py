"""Prompt controllers of several adapters as one: each row's code from its own adapter's controller.

Eight controllers of a mixed prefill, one after the other, took a fifth of a short forward. It knows
neither hosts nor what is done with a code.

Legend: B rows, T positions, D hidden size, G adapters, H controller width, N code size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bem.interfaces import Adapter
from bem.routing.controller import SequenceController, pool_prompt


class StackedControllers:
    """Controllers of equal shapes, without side signals; their parameters as they are now."""

    def __init__(self, controllers: Sequence[SequenceController]) -> None:
        self._pool = controllers[0].pool
        queries: list[Tensor] = [c.query_1D for c in controllers if c.query_1D is not None]
        with torch.inference_mode(False), torch.no_grad():
            self._query_GD = torch.cat(queries) if queries else None
            self._trunk_GDH = torch.stack([c.trunk_HD.t() for c in controllers]).contiguous()
            self._trunk_bias_G1H = torch.stack([c.trunk_bias_H for c in controllers]).unsqueeze(1)
            self._heads_GHN = torch.stack([c.heads_NH.t() for c in controllers]).contiguous()
            self._heads_bias_G1N = torch.stack([c.heads_bias_N for c in controllers]).unsqueeze(1)

    def __call__(self, h_BTD: Tensor, prefix_mask_BT: Tensor, which_B: Tensor) -> Tensor:
        """The code (B, N) of each row by controller `which_B`."""

        def own(stacked: Tensor) -> Tensor:
            return stacked.index_select(0, which_B)

        with torch.autocast(h_BTD.device.type, enabled=False):
            query_BD = None if self._query_GD is None else own(self._query_GD)
            h_BTD = h_BTD.to(self._trunk_GDH.dtype)
            f_B1D = pool_prompt(h_BTD, prefix_mask_BT, self._pool, query_BD).unsqueeze(1)
            u_B1H = torch.baddbmm(own(self._trunk_bias_G1H), f_B1D, own(self._trunk_GDH)).tanh()
            code_B1N = torch.baddbmm(own(self._heads_bias_G1N), u_B1H, own(self._heads_GHN))
        return code_B1N.squeeze(1)


def alike(adapters: Sequence[Adapter]) -> list[SequenceController]:
    """Their controllers, where each has one that gives its whole code and all are of one shape and
    read one layer; else none."""
    controllers = [adapter.prompt_controller() for adapter in adapters]
    found = [c for c in controllers if c is not None and not c.side_size]
    shapes = {(c.pool, c.trunk_HD.shape, c.heads_NH.shape, c.trunk_HD.dtype) for c in found}
    layers = {adapter.feature_layer for adapter in adapters}
    return found if len(found) == len(adapters) and len(shapes) == len(layers) == 1 else []
