"""Rescale: y + strength * (s o y), s a vector a linear that starts at zero.

Legend: B rows, T positions, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from bem.adapters.rescale.config import RescaleConfig
from bem.interfaces import Adapter, AdapterConfig, AdapterLayer, AdapterState, Site
from bem.layers.lowrank import add_delta


class RescaleLayer(AdapterLayer):
    """The vector of one site."""

    def __init__(self, site: Site, state: AdapterState) -> None:
        super().__init__()
        self.scale_O = nn.Parameter(torch.zeros(site.out_features))
        self.state = state

    def forward(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        state = self.state
        return add_delta(y_BTO, y_BTO * self.scale_O, state.strength, state.strength_rows)


class RescaleAdapter(Adapter):
    """One vector a site."""

    kind: ClassVar[str] = "rescale"
    config_class: ClassVar[type[AdapterConfig]] = RescaleConfig

    @classmethod
    def build(
        cls,
        config: RescaleConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        adapter = cls(config, sites, hidden_size)
        adapter.layers.extend(RescaleLayer(site, adapter.state) for site in sites)
        return adapter

    @classmethod
    def examples(cls) -> Sequence[RescaleConfig]:
        return (RescaleConfig(), RescaleConfig(targets="mlp"))

    @classmethod
    def count_parameters(
        cls, config: RescaleConfig, sites: Sequence[Site], hidden_size: int
    ) -> int:
        return sum(site.out_features for site in sites)

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        return 0  # products of matrices only, and there is none
