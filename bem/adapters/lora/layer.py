"""Static LoRA: y + (alpha / rank) * up (down x). Knows no context but the strength.

Legend: B rows, T positions, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from bem.adapters.lora.config import LoraConfig
from bem.interfaces import (
    Adapter,
    AdapterConfig,
    AdapterLayer,
    AdapterState,
    Factors,
    Site,
    StackShape,
)
from bem.kernels import Delta, fused_delta
from bem.layers.lowrank import add_up, down, uniform_down, zero_up
from bem.mixed.products import RowProducts


class LoraLayer(AdapterLayer):
    """The two factors of one site."""

    def __init__(
        self, config: LoraConfig, site: Site, state: AdapterState, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.down_RI = uniform_down(config.rank, site.in_features, generator)
        self.up_OR = zero_up(site.out_features, config.rank)
        self.scale = config.alpha / config.rank
        self.state = state

    def forward(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        state = self.state
        scale = self.scale * state.strength
        if state.may_fuse():
            made = Delta(y_BTO=y_BTO, down_RI=self.down_RI, up_OR=self.up_OR, scale=scale)
            return fused_delta(x_BTI, made)
        return add_up(y_BTO, down(x_BTI, self.down_RI), self.up_OR, scale, state.strength_rows)

    def mixed(self, rows: RowProducts, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        return rows.add_up(y_BTO, rows.down(x_BTI, "down_RI"), "up_OR")

    def mixed_with_base(self, rows: RowProducts, base: nn.Module, x_BTI: Tensor) -> Tensor | None:
        return rows.with_base(base, x_BTI, "down_RI", "up_OR")


class LoraAdapter(Adapter):
    """One static low-rank delta a site."""

    kind: ClassVar[str] = "lora"
    config_class: ClassVar[type[AdapterConfig]] = LoraConfig
    config: LoraConfig

    @classmethod
    def build(
        cls,
        config: LoraConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        adapter = cls(config, sites, hidden_size)
        for site in sites:
            adapter.layers.append(LoraLayer(config, site, adapter.state, generator))
        return adapter

    @classmethod
    def examples(cls) -> Sequence[LoraConfig]:
        return (LoraConfig(rank=3, alpha=6.0), LoraConfig(rank=2, targets="attention"))

    @classmethod
    def count_parameters(cls, config: LoraConfig, sites: Sequence[Site], hidden_size: int) -> int:
        return config.rank * sum(site.in_features + site.out_features for site in sites)

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        return (
            2 * batch * seq_len * self.count_parameters(self.config, self.sites, self.hidden_size)
        )

    def stack_shape(self) -> StackShape:
        return StackShape(
            kind=self.kind, variant="", rank=self.config.rank, sites=self.site_names()
        )

    def stack_scale(self) -> float:
        return self.config.alpha / self.config.rank

    def factors(self, index: int) -> Factors:
        layer = self.layers[index]
        assert isinstance(layer, LoraLayer)
        return layer.down_RI.detach(), layer.up_OR.detach() * layer.scale

    def scale_delta(self, index: int, by: float) -> None:
        layer = self.layers[index]
        assert isinstance(layer, LoraLayer)
        with torch.no_grad():
            layer.up_OR.mul_(by)
