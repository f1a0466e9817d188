"""Banked BEM: y + (alpha / rank) * sum_k g_k up_k (down_k x), g zero outside the top k.

All experts' factors stand side by side and are computed: at these ranks two products over K * R
beat a dispatch, and `forward_flops` counts what is computed.

Legend: B rows, T positions, I inputs, O outputs, K experts, R rank of one, N = K * R, S sites (or
1), D hidden size, F side features, X any leading shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from bem.adapters.banked.config import BankedConfig
from bem.interfaces import Adapter, AdapterConfig, AdapterLayer, AdapterState, Factors, Site
from bem.layers.lowrank import add_up, down, uniform_down, zero_up
from bem.routing.balance import balance_loss, importance_loss, mean_entropy, utilisation_gap
from bem.routing.controller import SequenceController
from bem.routing.gates import gates_and_softmax
from bem.routing.prompt import at_or_after, count_controller, new_controller
from bem.routing.uncertainty import ConfidenceHead


class BankedLayer(AdapterLayer):
    """The bank of one site, and its router where each token chooses."""

    def __init__(
        self,
        config: BankedConfig,
        site: Site,
        index: int,
        num_sites: int,
        state: AdapterState,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        total = config.experts * config.rank
        self.down_NI = uniform_down(total, site.in_features, generator)
        self.up_ON = zero_up(site.out_features, total)
        if config.router == "token":
            self.gate_KN = uniform_down(config.experts, total, generator)
            self.gate_bias_K = nn.Parameter(torch.zeros(config.experts))
        self.config = config
        self.scale = config.alpha / config.rank
        self.share = 1.0 / num_sites
        self.index = index
        self.state = state

    def forward(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        state = self.state
        z_BTN = down(x_BTI, self.down_NI)
        g_BXK = (
            self.token_gates(z_BTN) if self.config.router == "token" else state.codes[self.index]
        )
        z_BTN = z_BTN * g_BXK.to(z_BTN.dtype).repeat_interleave(self.config.rank, dim=-1)
        return add_up(y_BTO, z_BTN, self.up_ON, self.scale * state.strength, state.strength_rows)

    def token_gates(self, z_BTN: Tensor) -> Tensor:
        """(B, T, K) from z = down x, in the router's own precision: rounding could choose."""
        state = self.state
        with torch.autocast(z_BTN.device.type, enabled=False):
            z_BTN = z_BTN.to(self.gate_KN.dtype)
            logits_BTK = nn.functional.linear(z_BTN, self.gate_KN, self.gate_bias_K)
            g_BTK, p_BTK = gates_and_softmax(logits_BTK, self.config.top_k, self.config.gate)
            if state.auxiliary is not None:
                state.auxiliary += terms(self.config, p_BTK, g_BTK, state.token_mask_BT, self.share)
        if state.code_map is not None:
            g_BTK = state.code_map(g_BTK)
        if state.trace is not None:
            state.trace.append(g_BTK.detach())
        if state.site_codes is not None:
            state.site_codes[self.index] = g_BTK.detach()
        return g_BTK


def terms(
    config: BankedConfig,
    p_BTK: Tensor,
    g_BTK: Tensor,
    token_mask_BT: Tensor | None,
    share: float,
) -> list[Tensor]:
    """The weighted auxiliary terms of one router."""
    found = []
    if config.balance_weight:
        found.append(config.balance_weight * balance_loss(p_BTK, g_BTK > 0, token_mask_BT))
    if config.importance_weight:
        found.append(config.importance_weight * importance_loss(g_BTK, token_mask_BT))
    if config.entropy_weight:
        found.append(config.entropy_weight * mean_entropy(p_BTK, token_mask_BT))
    if config.utilisation_weight:
        found.append(config.utilisation_weight * utilisation_gap(p_BTK, token_mask_BT))
    return [share * term for term in found]


class BankedAdapter(Adapter):
    """A bank of low-rank experts a site, of which the context chooses k."""

    kind: ClassVar[str] = "banked"
    config_class: ClassVar[type[AdapterConfig]] = BankedConfig
    routes_hard = True
    config: BankedConfig
    controller: SequenceController

    @classmethod
    def build(
        cls,
        config: BankedConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        sites = adapted_sites(config, sites)
        adapter = cls(config, sites, hidden_size)
        adapter.has_auxiliary_loss = any(
            (
                config.balance_weight,
                config.importance_weight,
                config.entropy_weight,
                config.utilisation_weight,
            )
        )
        for index, site in enumerate(sites):
            layer = BankedLayer(config, site, index, len(sites), adapter.state, generator)
            adapter.layers.append(layer)
        if config.router == "sequence":
            adapter.feature_layer = config.feature_layer
            adapter.controller = new_controller(
                config, hidden_size, logit_count(config, sites), head_bias=0.0, generator=generator
            )
        if config.uncertainty:
            adapter.confidence = ConfidenceHead(config.controller_width)
        return adapter

    @classmethod
    def examples(cls) -> Sequence[BankedConfig]:
        return (
            BankedConfig(rank=2, experts=3, controller_width=4, importance_weight=0.1),
            BankedConfig(
                rank=1,
                experts=4,
                top_k=1,
                gate="straight_through",
                per_site=True,
                feature_layer=1,
                controller_width=3,
                uncertainty=True,
                entropy_weight=0.1,
            ),
            BankedConfig(rank=1, experts=4, router="token", targets="mlp", utilisation_weight=0.1),
        )

    @classmethod
    def count_parameters(cls, config: BankedConfig, sites: Sequence[Site], hidden_size: int) -> int:
        sites = adapted_sites(config, sites)
        total = config.experts * config.rank
        count = total * sum(site.in_features + site.out_features for site in sites)
        if config.router == "token":
            return count + len(sites) * config.experts * (total + 1)
        if config.uncertainty:
            count += ConfidenceHead.count_parameters(config.controller_width)
        return count + count_controller(config, hidden_size, logit_count(config, sites))

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        config = self.config
        total = config.experts * config.rank
        factors = total * sum(site.in_features + site.out_features for site in self.sites)
        flops = 2 * batch * seq_len * factors
        if config.router == "token":
            return flops + 2 * batch * seq_len * len(self.sites) * config.experts * total
        if config.uncertainty:
            flops += 2 * batch * config.controller_width
        return flops + self.controller.forward_flops(batch=batch, seq_len=seq_len)

    def encode(self, h_BTD: Tensor, prefix_mask_BT: Tensor, side_BF: Tensor | None) -> Tensor:
        config, state = self.config, self.state
        u_BH = self.controller.features(h_BTD, prefix_mask_BT, side_BF)
        logits_BN = self.controller.code(u_BH)
        logits_BSK = logits_BN.view(logits_BN.shape[0], -1, config.experts)
        g_BSK, p_BSK = gates_and_softmax(logits_BSK, config.top_k, config.gate)
        if state.auxiliary is not None:
            routers = logits_BSK.shape[1]
            for site in range(routers):
                one = slice(site, site + 1)
                state.auxiliary += terms(config, p_BSK[:, one], g_BSK[:, one], None, 1.0 / routers)
        if self.confidence is None:
            return g_BSK
        return self.confidence.fade(g_BSK, u_BH, static=self.static_code(), signals=state.signals)

    def spread(self, codes_BSR: Tensor) -> Sequence[Tensor]:
        if not self.config.per_site:
            return [codes_BSR] * len(self.sites)
        return codes_BSR.unsqueeze(2).unbind(1)

    def static_code(self) -> float:
        """The code of the static path: the even mixture of the bank."""
        return 1.0 / self.config.experts

    def coded_factors(self, index: int, code_R: Tensor) -> Factors:
        layer = self.layers[index]
        assert isinstance(layer, BankedLayer)
        code_N = code_R.repeat_interleave(self.config.rank)
        return layer.down_NI.detach(), layer.up_ON.detach() * (layer.scale * code_N)

    def controller_parameters(self) -> list[nn.Parameter]:
        factors = ("down_NI", "up_ON")
        return [p for name, p in self.named_parameters() if not name.endswith(factors)]


def logit_count(config: BankedConfig, sites: Sequence[Site]) -> int:
    """Numbers that the controller emits."""
    return config.experts * (len(sites) if config.per_site else 1)


def adapted_sites(config: BankedConfig, sites: Sequence[Site]) -> tuple[Site, ...]:
    """All sites where tokens choose; those after the features where the prompt does."""
    return tuple(sites) if config.router == "token" else at_or_after(config, sites)
