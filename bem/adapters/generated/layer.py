"""Generated BEM: y + (alpha / rank) * up (c * (down x)), c from the prompt or from the token.

Legend: B rows, T positions, I inputs, O outputs, R rank, D hidden size, F side features, S sites.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from bem.adapters.generated.config import GeneratedConfig
from bem.controller import SequenceController
from bem.errors import InvalidInputError
from bem.interfaces import Adapter, AdapterConfig, AdapterLayer, AdapterState, Site
from bem.lowrank import add_up, down, uniform_down, zero_up


class SequenceCodeLayer(AdapterLayer):
    """One site of a sequence-code BEM: its code stands in `state.codes`."""

    def __init__(
        self,
        config: GeneratedConfig,
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
        return add_up(y_BTO, z_BTR, self.up_OR, self.scale * state.strength, state.strength_rows)


class TokenCodeLayer(AdapterLayer):
    """One site of a token-code BEM: c = 2 sigmoid(gate z + bias) with z = down x, so 1 at first."""

    def __init__(
        self, config: GeneratedConfig, site: Site, state: AdapterState, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.down_RI = uniform_down(config.rank, site.in_features, generator)
        self.up_OR = zero_up(site.out_features, config.rank)
        self.gate_RR = nn.Parameter(torch.zeros(config.rank, config.rank))
        self.gate_bias_R = nn.Parameter(torch.zeros(config.rank))
        self.scale = config.alpha / config.rank
        self.state = state

    def forward(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        state = self.state
        z_BTR = down(x_BTI, self.down_RI)
        c_BTR = torch.sigmoid(nn.functional.linear(z_BTR, self.gate_RR, self.gate_bias_R))
        if state.code_map is not None:
            c_BTR = state.code_map(c_BTR)
        if state.trace is not None:
            state.trace.append(2 * c_BTR.detach())
        return add_up(
            y_BTO,
            z_BTR * c_BTR,
            self.up_OR,
            2 * self.scale * state.strength,
            state.strength_rows,
        )


class GeneratedAdapter(Adapter):
    """A low-rank delta a site whose rank directions are weighted by a code."""

    kind: ClassVar[str] = "generated"
    config_class: ClassVar[type[AdapterConfig]] = GeneratedConfig
    config: GeneratedConfig
    controller: SequenceController

    @classmethod
    def build(
        cls,
        config: GeneratedConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        sites = adapted_sites(config, sites)
        adapter = cls(config, sites, hidden_size)
        for index, site in enumerate(sites):
            adapter.layers.append(
                SequenceCodeLayer(config, site, index, adapter.state, generator)
                if config.code == "sequence"
                else TokenCodeLayer(config, site, adapter.state, generator)
            )
        if config.code == "sequence":
            adapter.feature_layer = config.feature_layer
            adapter.controller = SequenceController(
                hidden_size=hidden_size,
                side_size=config.side_size,
                width=config.controller_width,
                code_size=len(sites) * config.rank,
                pool=config.pool,
                head_spread=config.code_spread,
                head_bias=1.0,
                generator=generator,
            )
        return adapter

    @classmethod
    def examples(cls) -> Sequence[GeneratedConfig]:
        return (
            GeneratedConfig(rank=3, controller_width=5),
            GeneratedConfig(rank=2, controller_width=4, pool="mean", feature_layer=1),
            GeneratedConfig(rank=2, pool="last", feature_layer=1, targets="mlp"),
            GeneratedConfig(rank=3, code="token"),
        )

    @classmethod
    def count_parameters(
        cls, config: GeneratedConfig, sites: Sequence[Site], hidden_size: int
    ) -> int:
        sites = adapted_sites(config, sites)
        factors = config.rank * sum(site.in_features + site.out_features for site in sites)
        if config.code == "token":
            return factors + len(sites) * config.rank * (config.rank + 1)
        return factors + SequenceController.count_parameters(
            hidden_size=hidden_size,
            side_size=config.side_size,
            width=config.controller_width,
            code_size=len(sites) * config.rank,
            pool=config.pool,
        )

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        config = self.config
        factors = config.rank * sum(site.in_features + site.out_features for site in self.sites)
        if config.code == "token":
            return 2 * batch * seq_len * (factors + len(self.sites) * config.rank**2)
        controller = self.controller.forward_flops(batch=batch, seq_len=seq_len)
        return 2 * batch * seq_len * factors + controller

    def encode(self, h_BTD: Tensor, prefix_mask_BT: Tensor, side_BF: Tensor | None) -> Tensor:
        code_BN: Tensor = self.controller(h_BTD, prefix_mask_BT, side_BF)
        return code_BN.view(code_BN.shape[0], len(self.sites), -1)

    def controller_parameters(self) -> list[nn.Parameter]:
        if self.config.code == "sequence":
            return list(self.controller.parameters())
        return [p for name, p in self.named_parameters() if ".gate_" in name]


def adapted_sites(config: GeneratedConfig, sites: Sequence[Site]) -> tuple[Site, ...]:
    """The sites at or after the layer whose input the code is read from."""
    if config.code == "token":
        return tuple(sites)
    adapted = tuple(site for site in sites if site.layer >= config.feature_layer)
    if not adapted:
        raise InvalidInputError(
            f"feature_layer is {config.feature_layer}: no target lies in that layer or after it."
        )
    return adapted
