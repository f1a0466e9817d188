"""Some adapters of a stack at one site, in every form that a stack of them alone would give.

Which adapters act changes with every batch. To take theirs out of a stack of all costs little;
another stack would be made again and again. It knows neither rows nor hosts.

Legend: G adapters chosen, R rank, I inputs, N = G * R.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bem.mixed.stack import Form, SiteStack


class Selection:
    """The adapters `which_G` of a stack, without gradients."""

    live = False

    def __init__(self, site: SiteStack, which_G: Tensor) -> None:
        self.index = site.index
        self._site = site
        self._which_G = which_G
        self._kept: dict[tuple[str, Form], Tensor] = {}
        self._kept_gated: tuple[Tensor, Tensor] | None = None

    def __call__(self, name: str, form: Form) -> Tensor:
        """See `Stack.stacked`."""
        kept = self._kept.get((name, form))
        if kept is None:
            kept = self._kept[name, form] = self._select(name, form)
        return kept

    def gated(self, down: str, gate: str, bias: str) -> tuple[Tensor, Tensor]:
        """See `Stack.gated`."""
        if self._kept_gated is None:
            down_GRI, gate_GRR = self._own(down, "rows"), self._own(gate, "rows")
            bias_N = self._own(bias, "rows").flatten()
            weight = torch.cat([down_GRI, torch.bmm(gate_GRR, down_GRI)]).flatten(0, 1)
            self._kept_gated = weight, torch.cat([torch.zeros_like(bias_N), bias_N])
        return self._kept_gated

    def _select(self, name: str, form: Form) -> Tensor:
        if form == "side":
            return self._own(name, "rows").flatten(0, 1)
        if form == "below":
            return self._own(name, "each").flatten(0, 1)
        if form == "diagonal":
            blocks: Tensor = torch.block_diag(*self._own(name, "each"))  # type: ignore[no-untyped-call]
            return blocks
        return self._own(name, form)

    def _own(self, name: str, form: Form) -> Tensor:
        return self._site(name, form).index_select(0, self._which_G)
