"""HydraLoRA: y + (alpha / rank) * sum_k w_k up_k (down x), w a softmax for each token.

Legend: B rows, T positions, I inputs, O outputs, K heads, R rank, N = K * R.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from bem.adapters.hydralora.config import HydraLoraConfig
from bem.interfaces import Adapter, AdapterConfig, AdapterLayer, AdapterState, Site
from bem.layers.lowrank import add_up, down, uniform_down, zero_up
from bem.routing.gates import new_router, router_logits


class HydraLoraLayer(AdapterLayer):
    """The shared down projection, the heads side by side, and the router of one site."""

    def __init__(
        self, config: HydraLoraConfig, site: Site, state: AdapterState, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.down_RI = uniform_down(config.rank, site.in_features, generator)
        self.up_ON = zero_up(site.out_features, config.heads * config.rank)
        self.router_KI = new_router(config.heads, site.in_features, generator)
        self.scale = config.alpha / config.rank
        self.state = state

    def forward(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        state = self.state
        w_BTK = router_logits(x_BTI, self.router_KI).softmax(-1)
        if state.code_map is not None:
            w_BTK = state.code_map(w_BTK)
        if state.trace is not None:
            state.trace.append(w_BTK.detach())
        z_BTR = down(x_BTI, self.down_RI)
        z_BTN = (w_BTK.to(z_BTR.dtype).unsqueeze(-1) * z_BTR.unsqueeze(-2)).flatten(-2)
        return add_up(y_BTO, z_BTN, self.up_ON, self.scale * state.strength, state.strength_rows)


class HydraLoraAdapter(Adapter):
    """An asymmetric LoRA: what is common in one factor, what differs in several."""

    kind: ClassVar[str] = "hydralora"
    config_class: ClassVar[type[AdapterConfig]] = HydraLoraConfig
    config: HydraLoraConfig

    @classmethod
    def build(
        cls,
        config: HydraLoraConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        adapter = cls(config, sites, hidden_size)
        for site in sites:
            adapter.layers.append(HydraLoraLayer(config, site, adapter.state, generator))
        return adapter

    @classmethod
    def examples(cls) -> Sequence[HydraLoraConfig]:
        return (HydraLoraConfig(rank=2), HydraLoraConfig(rank=3, heads=2, targets="attention"))

    @classmethod
    def count_parameters(
        cls, config: HydraLoraConfig, sites: Sequence[Site], hidden_size: int
    ) -> int:
        down_and_router = (config.rank + config.heads) * sum(site.in_features for site in sites)
        heads = config.heads * config.rank * sum(site.out_features for site in sites)
        return down_and_router + heads

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        return (
            2 * batch * seq_len * self.count_parameters(self.config, self.sites, self.hidden_size)
        )

    def controller_parameters(self) -> list[nn.Parameter]:
        return [p for name, p in self.named_parameters() if name.endswith("router_KI")]
