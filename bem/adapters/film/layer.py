"""Residual FiLM (V4): y + (alpha / rank) * (gamma * y + beta), both low-rank in the prompt's code.

It reads no token: one scale and one shift a row and feature, the same at every position.

Legend: B rows, T positions, I inputs, O outputs, R rank, S sites, D hidden size, F side features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from bem.adapters.film.config import FilmConfig
from bem.interfaces import Adapter, AdapterConfig, AdapterLayer, AdapterState, Site
from bem.layers.lowrank import add_delta, zero_up
from bem.layers.roles import residual_writers
from bem.routing.controller import SequenceController
from bem.routing.prompt import at_or_after, count_controller, new_controller


class FilmLayer(AdapterLayer):
    """One site; its code stands in the state."""

    def __init__(self, config: FilmConfig, site: Site, index: int, state: AdapterState) -> None:
        super().__init__()
        self.gamma_OR = zero_up(site.out_features, config.rank)
        self.beta_OR = zero_up(site.out_features, config.rank)
        self.scale = config.alpha / config.rank
        self.index = index
        self.state = state

    def forward(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        state = self.state
        code_B1R = state.codes[self.index]
        gamma_B1O = nn.functional.linear(code_B1R, self.gamma_OR)
        beta_B1O = nn.functional.linear(code_B1R, self.beta_OR)
        delta_BTO = torch.addcmul(beta_B1O, gamma_B1O, y_BTO.to(gamma_B1O.dtype))
        return add_delta(y_BTO, delta_BTO, self.scale * state.strength, state.strength_rows)


class FilmAdapter(Adapter):
    """A scale and a shift of the prompt at every site."""

    kind: ClassVar[str] = "film"
    config_class: ClassVar[type[AdapterConfig]] = FilmConfig
    config: FilmConfig
    controller: SequenceController

    @classmethod
    def build(
        cls,
        config: FilmConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        sites = adapted_sites(config, sites)
        adapter = cls(config, sites, hidden_size)
        for index, site in enumerate(sites):
            adapter.layers.append(FilmLayer(config, site, index, adapter.state))
        adapter.feature_layer = config.feature_layer
        adapter.controller = new_controller(
            config, hidden_size, len(sites) * config.rank, head_bias=1.0, generator=generator
        )
        return adapter

    @classmethod
    def examples(cls) -> Sequence[FilmConfig]:
        return (
            FilmConfig(rank=3, controller_width=4),
            FilmConfig(rank=2, where="targets", targets="mlp", feature_layer=1, pool="last"),
        )

    @classmethod
    def count_parameters(cls, config: FilmConfig, sites: Sequence[Site], hidden_size: int) -> int:
        sites = adapted_sites(config, sites)
        mixes = 2 * config.rank * sum(site.out_features for site in sites)
        return mixes + count_controller(config, hidden_size, len(sites) * config.rank)

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        mixes = 2 * self.config.rank * sum(site.out_features for site in self.sites)
        controller = self.controller.forward_flops(batch=batch, seq_len=seq_len)
        return 2 * batch * mixes + controller

    def encode(self, h_BTD: Tensor, prefix_mask_BT: Tensor, side_BF: Tensor | None) -> Tensor:
        code_BN: Tensor = self.controller(h_BTD, prefix_mask_BT, side_BF)
        return code_BN.view(code_BN.shape[0], len(self.sites), -1)

    def controller_parameters(self) -> list[nn.Parameter]:
        return list(self.controller.parameters())


def adapted_sites(config: FilmConfig, sites: Sequence[Site]) -> tuple[Site, ...]:
    """The sites that `where` leaves of the targets, after the features."""
    after = at_or_after(config, sites)
    return residual_writers(after) if config.where == "residual" else after
