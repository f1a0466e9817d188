"""MoELoRA: y + (alpha / rank) * sum_e g_e up_e (down_e x), g zero outside a token's top k.

The experts' factors are held side by side and all are computed: at these ranks two products over
E * R beat a dispatch, and `forward_flops` counts what is computed.

Legend: B rows, T positions, I inputs, O outputs, E experts, R rank of one expert, N = E * R.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from bem.adapters.moelora.config import MoeLoraConfig
from bem.interfaces import Adapter, AdapterConfig, AdapterLayer, AdapterState, Site
from bem.layers.lowrank import add_up, down, uniform_down, zero_up
from bem.routing.balance import balance_loss
from bem.routing.gates import new_router, router_logits, top_k


class MoeLoraLayer(AdapterLayer):
    """The experts and the router of one site."""

    def __init__(
        self,
        config: MoeLoraConfig,
        site: Site,
        num_sites: int,
        state: AdapterState,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.down_NI = uniform_down(config.experts * config.rank, site.in_features, generator)
        self.up_ON = zero_up(site.out_features, config.experts * config.rank)
        self.router_EI = new_router(config.experts, site.in_features, generator)
        self.rank = config.rank
        self.top_k = config.top_k
        self.scale = config.alpha / config.rank
        self.balance_weight = config.balance_weight / num_sites
        self.state = state

    def forward(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        state = self.state
        g_BTE = self.gates(x_BTI)
        if state.code_map is not None:
            g_BTE = state.code_map(g_BTE)
        if state.trace is not None:
            state.trace.append(g_BTE.detach())
        z_BTN = down(x_BTI, self.down_NI)
        z_BTN = z_BTN * g_BTE.to(z_BTN.dtype).repeat_interleave(self.rank, dim=-1)
        return add_up(y_BTO, z_BTN, self.up_ON, self.scale * state.strength, state.strength_rows)

    def gates(self, x_BTI: Tensor) -> Tensor:
        """(B, T, E): a softmax over the top k. With one expert its probability among all, or the
        router would get no gradient."""
        logits_BTE = router_logits(x_BTI, self.router_EI)
        chosen_BTE = top_k(logits_BTE, self.top_k)
        p_BTE = logits_BTE.softmax(-1)
        if self.state.auxiliary is not None:
            loss = balance_loss(p_BTE, chosen_BTE, self.state.token_mask_BT)
            self.state.auxiliary.append(self.balance_weight * loss)
        if self.top_k == 1:
            return p_BTE * chosen_BTE
        return logits_BTE.masked_fill(~chosen_BTE, float("-inf")).softmax(-1)


class MoeLoraAdapter(Adapter):
    """Several LoRAs a site; a router picks k for each token."""

    kind: ClassVar[str] = "moelora"
    config_class: ClassVar[type[AdapterConfig]] = MoeLoraConfig
    routes_hard = True
    config: MoeLoraConfig

    @classmethod
    def build(
        cls,
        config: MoeLoraConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        adapter = cls(config, sites, hidden_size)
        adapter.has_auxiliary_loss = config.balance_weight > 0
        for site in sites:
            layer = MoeLoraLayer(config, site, len(sites), adapter.state, generator)
            adapter.layers.append(layer)
        return adapter

    @classmethod
    def examples(cls) -> Sequence[MoeLoraConfig]:
        return (
            MoeLoraConfig(rank=2, experts=3),
            MoeLoraConfig(rank=2, experts=2, top_k=1, targets="mlp", balance_weight=0.0),
        )

    @classmethod
    def count_parameters(
        cls, config: MoeLoraConfig, sites: Sequence[Site], hidden_size: int
    ) -> int:
        factors = config.rank * sum(site.in_features + site.out_features for site in sites)
        routers = sum(site.in_features for site in sites)
        return config.experts * (factors + routers)

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        return (
            2 * batch * seq_len * self.count_parameters(self.config, self.sites, self.hidden_size)
        )

    def controller_parameters(self) -> list[nn.Parameter]:
        return [p for name, p in self.named_parameters() if name.endswith("router_EI")]
