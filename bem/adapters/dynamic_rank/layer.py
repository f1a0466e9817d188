"""Dynamic-rank BEM (V1): y + (alpha / k) * gate * up (mask * (down x)), mask k-hot over R ranks.

The gate has one number a head group. It lies on the site's output, but for an attention output,
whose heads are its inputs: there it multiplies x.

Legend: B rows, T positions, I inputs, O outputs, R rank, G head groups, S sites, D hidden size, F
side features, X inputs or outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from bem.adapters.dynamic_rank.config import DynamicRankConfig
from bem.errors import InvalidInputError
from bem.interfaces import Adapter, AdapterConfig, AdapterLayer, AdapterState, Site
from bem.layers.lowrank import add_delta, add_up, down, uniform_down, zero_up
from bem.layers.roles import FUSED_PARTS, is_attention_output, leaf
from bem.routing.controller import SequenceController
from bem.routing.gates import top_k
from bem.routing.prompt import at_or_after, count_controller, new_controller


def k_hot(logits_BSR: Tensor, k: int) -> Tensor:
    """1 at the k largest, 0 elsewhere; backward as sigmoid (straight through, 1308.3432)."""
    soft_BSR = torch.sigmoid(logits_BSR)
    return top_k(logits_BSR, k).to(soft_BSR.dtype) + (soft_BSR - soft_BSR.detach())


def group_of(site: Site, groups: int) -> Tensor:
    """The head group of each feature on the head side, (X,): contiguous blocks of equal size, in
    each part of a fused projection by itself."""
    features = site.in_features if is_attention_output(site) else site.out_features
    part = features // FUSED_PARTS.get(leaf(site), 1)
    if part % groups:
        raise InvalidInputError(
            f"head_groups is {groups}: '{site.name}' has {part} features, which it does not divide."
        )
    return (torch.arange(features) % part) // (part // groups)


class DynamicRankLayer(AdapterLayer):
    """One site; its code in the state is the mask over R ranks, then the gates of G groups."""

    group_X: Tensor

    def __init__(
        self,
        config: DynamicRankConfig,
        site: Site,
        index: int,
        state: AdapterState,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.down_RI = uniform_down(config.rank, site.in_features, generator)
        self.up_OR = zero_up(site.out_features, config.rank)
        self.register_buffer("group_X", group_of(site, config.head_groups), persistent=False)
        self.gates_input = is_attention_output(site)
        self.rank = config.rank
        self.scale = config.alpha / config.active_rank
        self.index = index
        self.state = state

    def forward(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        state = self.state
        code_B1C = state.codes[self.index]
        mask_B1R, gate_B1G = code_B1C[..., : self.rank], code_B1C[..., self.rank :]
        gate_B1X = gate_B1G[..., self.group_X]
        scale, rows = self.scale * state.strength, state.strength_rows
        if self.gates_input:
            z_BTR = down(x_BTI * gate_B1X.to(x_BTI.dtype), self.down_RI) * mask_B1R
            return add_up(y_BTO, z_BTR, self.up_OR, scale, rows)
        z_BTR = down(x_BTI, self.down_RI) * mask_B1R
        delta_BTO = nn.functional.linear(z_BTR, self.up_OR)
        return add_delta(y_BTO, delta_BTO * gate_B1X, scale, rows)


class DynamicRankAdapter(Adapter):
    """A low-rank delta a site, of which the prompt chooses ranks and weighs head groups."""

    kind: ClassVar[str] = "dynamic_rank"
    config_class: ClassVar[type[AdapterConfig]] = DynamicRankConfig
    routes_hard = True
    config: DynamicRankConfig
    controller: SequenceController

    @classmethod
    def build(
        cls,
        config: DynamicRankConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        sites = at_or_after(config, sites)
        adapter = cls(config, sites, hidden_size)
        for index, site in enumerate(sites):
            layer = DynamicRankLayer(config, site, index, adapter.state, generator)
            adapter.layers.append(layer)
        adapter.feature_layer = config.feature_layer
        adapter.controller = new_controller(
            config, hidden_size, code_size(config, sites), head_bias=0.0, generator=generator
        )
        return adapter

    @classmethod
    def examples(cls) -> Sequence[DynamicRankConfig]:
        return (
            DynamicRankConfig(rank=4, active_rank=2, controller_width=4),
            DynamicRankConfig(
                rank=3, active_rank=1, head_groups=4, targets="all-linear", feature_layer=1
            ),
        )

    @classmethod
    def count_parameters(
        cls, config: DynamicRankConfig, sites: Sequence[Site], hidden_size: int
    ) -> int:
        sites = at_or_after(config, sites)
        factors = config.rank * sum(site.in_features + site.out_features for site in sites)
        return factors + count_controller(config, hidden_size, code_size(config, sites))

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        factors = self.config.rank * sum(s.in_features + s.out_features for s in self.sites)
        controller = self.controller.forward_flops(batch=batch, seq_len=seq_len)
        return 2 * batch * seq_len * factors + controller

    def encode(self, h_BTD: Tensor, prefix_mask_BT: Tensor, side_BF: Tensor | None) -> Tensor:
        logits_BN: Tensor = self.controller(h_BTD, prefix_mask_BT, side_BF)
        logits_BSC = logits_BN.view(logits_BN.shape[0], len(self.sites), -1)
        rank = self.config.rank
        mask_BSR = k_hot(logits_BSC[..., :rank], self.config.active_rank)
        return torch.cat([mask_BSR, 2 * torch.sigmoid(logits_BSC[..., rank:])], dim=-1)

    def controller_parameters(self) -> list[nn.Parameter]:
        return list(self.controller.parameters())


def code_size(config: DynamicRankConfig, sites: Sequence[Site]) -> int:
    """Numbers that the controller emits."""
    return len(sites) * (config.rank + config.head_groups)
