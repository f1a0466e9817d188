"""Interpolation BEM: y + sum_k w_k up_k (down_k x), w from the prompt, factors frozen.

The experts' factors are held side by side, so a site costs two products whatever their number.

Legend: B rows, T positions, I inputs, O outputs, K experts, R the sum of their ranks, S sites,
D hidden size, F side features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from bem.adapters.interpolation.config import InterpolationConfig
from bem.errors import InvalidInputError
from bem.interfaces import Adapter, AdapterConfig, AdapterLayer, AdapterState, Factors, Site
from bem.layers.lowrank import add_up, down
from bem.routing.controller import SequenceController


class InterpolationLayer(AdapterLayer):
    """The experts' factors at one site."""

    down_RI: Tensor
    up_OR: Tensor

    def __init__(self, site: Site, index: int, state: AdapterState, rank: int) -> None:
        super().__init__()
        self.register_buffer("down_RI", torch.zeros(rank, site.in_features))
        self.register_buffer("up_OR", torch.zeros(site.out_features, rank))
        self.index = index
        self.state = state

    def forward(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        state = self.state
        z_BTR = down(x_BTI, self.down_RI) * state.codes[self.index]
        return add_up(y_BTO, z_BTR, self.up_OR, state.strength, state.strength_rows)


class InterpolationAdapter(Adapter):
    """A prompt-dependent mixture of static deltas; only the controller is trained."""

    kind: ClassVar[str] = "interpolation"
    config_class: ClassVar[type[AdapterConfig]] = InterpolationConfig
    config: InterpolationConfig
    controller: SequenceController
    expert_of_rank_R: Tensor

    @classmethod
    def build(
        cls,
        config: InterpolationConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        sites = adapted_sites(config, sites)
        ranks = torch.tensor(config.expert_ranks)
        adapter = cls(config, sites, hidden_size)
        for index, site in enumerate(sites):
            adapter.layers.append(InterpolationLayer(site, index, adapter.state, int(ranks.sum())))
        expert_of_rank_R = torch.arange(len(ranks)).repeat_interleave(ranks)
        adapter.register_buffer("expert_of_rank_R", expert_of_rank_R, persistent=False)
        adapter.feature_layer = config.feature_layer
        adapter.starts_at_base = config.weights == "free"
        adapter.controller = SequenceController(
            hidden_size=hidden_size,
            side_size=config.side_size,
            width=config.controller_width,
            code_size=code_size(config, sites),
            pool=config.pool,
            head_spread=0.0,
            head_bias=0.0,
            generator=generator,
        )
        if experts is not None:
            adapter.copy_experts(experts)
        return adapter

    def copy_experts(self, experts: Mapping[str, Adapter]) -> None:
        """Take the experts' factors over; they may be removed from the host afterwards."""
        offset = 0
        for name, rank in zip(self.config.experts, self.config.expert_ranks, strict=True):
            if name not in experts:
                known = ", ".join(experts) or "none"
                raise InvalidInputError(f"Unknown expert '{name}'. On this base: {known}.")
            expert = experts[name]
            index_of = {site.name: index for index, site in enumerate(expert.sites)}
            for site, layer in zip(self.sites, self.layers, strict=True):
                assert isinstance(layer, InterpolationLayer)
                if site.name not in index_of:
                    raise InvalidInputError(f"Expert '{name}' does not adapt '{site.name}'.")
                factors: Factors = expert.factors(index_of[site.name])
                if factors[0].shape[0] != rank:
                    raise InvalidInputError(
                        f"Expert '{name}' has rank {factors[0].shape[0]}, the config says {rank}."
                    )
                layer.down_RI[offset : offset + rank] = factors[0]
                layer.up_OR[:, offset : offset + rank] = factors[1]
            offset += rank

    @classmethod
    def examples(cls) -> Sequence[InterpolationConfig]:
        experts, ranks = ("expert_0", "expert_1"), (2, 2)
        return (
            InterpolationConfig(experts=experts, expert_ranks=ranks, controller_width=4),
            InterpolationConfig(
                experts=experts,
                expert_ranks=ranks,
                weights="free",
                per_site=True,
                feature_layer=1,
                controller_width=3,
                pool="last",
            ),
        )

    @classmethod
    def count_parameters(
        cls, config: InterpolationConfig, sites: Sequence[Site], hidden_size: int
    ) -> int:
        return SequenceController.count_parameters(
            hidden_size=hidden_size,
            side_size=config.side_size,
            width=config.controller_width,
            code_size=code_size(config, adapted_sites(config, sites)),
            pool=config.pool,
        )

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        rank = sum(self.config.expert_ranks)
        factors = rank * sum(site.in_features + site.out_features for site in self.sites)
        controller = self.controller.forward_flops(batch=batch, seq_len=seq_len)
        return 2 * batch * seq_len * factors + controller

    def encode(self, h_BTD: Tensor, prefix_mask_BT: Tensor, side_BF: Tensor | None) -> Tensor:
        logits_BN: Tensor = self.controller(h_BTD, prefix_mask_BT, side_BF)
        w_BSK = logits_BN.view(logits_BN.shape[0], -1, len(self.config.experts))
        return w_BSK.softmax(-1) if self.config.weights == "softmax" else w_BSK

    def spread(self, codes_BSR: Tensor) -> Sequence[Tensor]:
        c_BSR = codes_BSR[:, :, self.expert_of_rank_R]
        if not self.config.per_site:
            return [c_BSR] * len(self.sites)
        return c_BSR.unsqueeze(2).unbind(1)

    def controller_parameters(self) -> list[nn.Parameter]:
        return list(self.controller.parameters())


def code_size(config: InterpolationConfig, sites: Sequence[Site]) -> int:
    """Numbers that the controller emits."""
    return len(config.experts) * (len(sites) if config.per_site else 1)


def adapted_sites(config: InterpolationConfig, sites: Sequence[Site]) -> tuple[Site, ...]:
    """The sites at or after the layer whose input the weights are read from."""
    if len(config.experts) != len(config.expert_ranks):
        raise InvalidInputError(
            f"{len(config.experts)} experts but {len(config.expert_ranks)} expert_ranks."
        )
    adapted = tuple(site for site in sites if site.layer >= config.feature_layer)
    if not adapted:
        raise InvalidInputError(
            f"feature_layer is {config.feature_layer}: no target lies in that layer or after it."
        )
    return adapted
