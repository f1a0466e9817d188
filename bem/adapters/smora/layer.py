"""SMoRA: y + scale * up (g * (down x)), g k-hot for each token.

    s = R x        chosen = the k largest of s + bias        g_r = k * softmax over the chosen of s

The bias decides who is chosen and never what the gate is; it takes no gradient. After each
optimiser step it rises for directions chosen less than their share and falls for the others.

Legend: B rows, T positions, I inputs, O outputs, R rank directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from bem.adapters.smora.config import SmoraConfig
from bem.errors import InvalidInputError
from bem.interfaces import Adapter, AdapterConfig, AdapterLayer, AdapterState, Site
from bem.layers.lowrank import add_up, down, uniform_down, zero_up
from bem.routing.balance import load
from bem.routing.gates import new_router, router_logits, top_k


class SmoraLayer(AdapterLayer):
    """The factors, the router and the balance bias of one site."""

    bias_R: Tensor

    def __init__(
        self, config: SmoraConfig, site: Site, state: AdapterState, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.down_RI = uniform_down(config.rank, site.in_features, generator)
        self.up_OR = zero_up(site.out_features, config.rank)
        self.router_RI = new_router(config.rank, site.in_features, generator)
        self.register_buffer("bias_R", torch.zeros(config.rank))
        self.active = config.active
        self.scale = config.scale
        self.state = state
        self.last_load_R: Tensor | None = None
        """The share of choices that fell on each direction in the last training forward."""

    def forward(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        state = self.state
        g_BTR = self.gates(x_BTI)
        if state.code_map is not None:
            g_BTR = state.code_map(g_BTR)
        if state.trace is not None:
            state.trace.append(g_BTR.detach())
        z_BTR = down(x_BTI, self.down_RI)
        z_BTR = z_BTR * g_BTR.to(z_BTR.dtype)
        return add_up(y_BTO, z_BTR, self.up_OR, self.scale * state.strength, state.strength_rows)

    def gates(self, x_BTI: Tensor) -> Tensor:
        """(B, T, R), k of them not zero, with mean 1 over those k."""
        logits_BTR = router_logits(x_BTI, self.router_RI)
        chosen_BTR = top_k(logits_BTR.detach() + self.bias_R, self.active)
        if self.learns():
            self.last_load_R = load(chosen_BTR, self.state.token_mask_BT)
        return logits_BTR.masked_fill(~chosen_BTR, float("-inf")).softmax(-1) * self.active

    def learns(self) -> bool:
        """Whether this forward is one of training, and not its recomputation."""
        trained = torch.is_grad_enabled() and self.router_RI.requires_grad
        return trained and not self.state.recomputed

    def rebalance(self, rate: float) -> None:
        """bias_r += rate * sign(1 / R - load_r)."""
        if self.last_load_R is not None:
            self.bias_R += rate * torch.sign(1.0 / len(self.bias_R) - self.last_load_R)
            self.last_load_R = None


class SmoraAdapter(Adapter):
    """One LoRA whose rank directions are routed."""

    kind: ClassVar[str] = "smora"
    config_class: ClassVar[type[AdapterConfig]] = SmoraConfig
    routes_hard = True
    config: SmoraConfig

    @classmethod
    def build(
        cls,
        config: SmoraConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        if config.active > config.rank:  # a copy with another rank is not validated again
            raise InvalidInputError(f"active is {config.active}, more than rank {config.rank}.")
        adapter = cls(config, sites, hidden_size)
        adapter.has_after_step = config.bias_rate > 0
        for site in sites:
            adapter.layers.append(SmoraLayer(config, site, adapter.state, generator))
        return adapter

    @classmethod
    def examples(cls) -> Sequence[SmoraConfig]:
        return (SmoraConfig(rank=5, active=2), SmoraConfig(rank=3, active=3, targets="attention"))

    @classmethod
    def count_parameters(cls, config: SmoraConfig, sites: Sequence[Site], hidden_size: int) -> int:
        return config.rank * sum(2 * site.in_features + site.out_features for site in sites)

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        return (
            2 * batch * seq_len * self.count_parameters(self.config, self.sites, self.hidden_size)
        )

    def controller_parameters(self) -> list[nn.Parameter]:
        return [p for name, p in self.named_parameters() if name.endswith("router_RI")]

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        for layer in self.layers:
            assert isinstance(layer, SmoraLayer)
            layer.rebalance(self.config.bias_rate)
