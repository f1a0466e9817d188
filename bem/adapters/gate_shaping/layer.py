"""Gate shaping (V2): y * (1 + (alpha / rank) * up (c * (down x))) at the MLP's gate, c from the
prompt.

Legend: B rows, T positions, I inputs, O outputs, R rank, S sites, D hidden size, F side features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from bem.adapters.gate_shaping.config import GateShapingConfig
from bem.interfaces import Adapter, AdapterConfig, AdapterLayer, AdapterState, Site
from bem.layers.lowrank import add_delta, down, uniform_down, zero_up
from bem.layers.roles import mlp_gates
from bem.routing.controller import SequenceController
from bem.routing.prompt import at_or_after, count_controller, new_controller


class GateShapingLayer(AdapterLayer):
    """One gate; its code stands in the state."""

    def __init__(
        self,
        config: GateShapingConfig,
        site: Site,
        index: int,
        state: AdapterState,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.down_RI = uniform_down(config.rank, site.in_features, generator)
        self.up_OR = zero_up(site.out_features, config.rank)
        self.scale = config.alpha / config.rank
        self.index = index
        self.state = state

    def forward(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        state = self.state
        z_BTR = down(x_BTI, self.down_RI) * state.codes[self.index]
        slope_BTO = nn.functional.linear(z_BTR, self.up_OR)
        scale = self.scale * state.strength
        return add_delta(y_BTO, y_BTO * slope_BTO, scale, state.strength_rows)


class GateShapingAdapter(Adapter):
    """A low-rank, prompt-coded factor on every MLP gate."""

    kind: ClassVar[str] = "gate_shaping"
    config_class: ClassVar[type[AdapterConfig]] = GateShapingConfig
    config: GateShapingConfig
    controller: SequenceController

    @classmethod
    def build(
        cls,
        config: GateShapingConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        sites = mlp_gates(at_or_after(config, sites))
        adapter = cls(config, sites, hidden_size)
        for index, site in enumerate(sites):
            layer = GateShapingLayer(config, site, index, adapter.state, generator)
            adapter.layers.append(layer)
        adapter.feature_layer = config.feature_layer
        adapter.controller = new_controller(
            config, hidden_size, len(sites) * config.rank, head_bias=1.0, generator=generator
        )
        return adapter

    @classmethod
    def examples(cls) -> Sequence[GateShapingConfig]:
        return (
            GateShapingConfig(rank=3, controller_width=4),
            GateShapingConfig(rank=2, controller_width=4, feature_layer=1, pool="mean"),
        )

    @classmethod
    def count_parameters(
        cls, config: GateShapingConfig, sites: Sequence[Site], hidden_size: int
    ) -> int:
        sites = mlp_gates(at_or_after(config, sites))
        factors = config.rank * sum(site.in_features + site.out_features for site in sites)
        return factors + count_controller(config, hidden_size, len(sites) * config.rank)

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        factors = self.config.rank * sum(s.in_features + s.out_features for s in self.sites)
        controller = self.controller.forward_flops(batch=batch, seq_len=seq_len)
        return 2 * batch * seq_len * factors + controller

    def encode(self, h_BTD: Tensor, prefix_mask_BT: Tensor, side_BF: Tensor | None) -> Tensor:
        code_BN: Tensor = self.controller(h_BTD, prefix_mask_BT, side_BF)
        return code_BN.view(code_BN.shape[0], len(self.sites), -1)

    def controller_parameters(self) -> list[nn.Parameter]:
        return list(self.controller.parameters())
