"""Kronecker BEM (V3): y + (alpha / rank) * sum_r c_r (A_r (x) B_r) x, c from the prompt.

With x read as a matrix X of P rows and Q columns, (A (x) B) x is A X B^T: two small products, and
the delta is never built. A is zero at the start.

Legend: B rows, T positions, I = P * Q inputs, O = U * V outputs, A_r is U x P, B_r is V x Q, R
terms, S sites, D hidden size, F side features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from bem.adapters.kronecker.config import KroneckerConfig
from bem.interfaces import Adapter, AdapterConfig, AdapterLayer, AdapterState, Site
from bem.layers.lowrank import add_delta, down
from bem.layers.roles import mlp_outputs
from bem.routing.controller import SequenceController
from bem.routing.prompt import at_or_after, count_controller, new_controller


def split(features: int) -> tuple[int, int]:
    """The two factors of `features` nearest to each other, the smaller first."""
    first = next(f for f in range(math.isqrt(features), 0, -1) if features % f == 0)
    return first, features // first


class KroneckerLayer(AdapterLayer):
    """The terms of one site; their code stands in the state."""

    def __init__(
        self,
        config: KroneckerConfig,
        site: Site,
        index: int,
        state: AdapterState,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.rank = config.rank
        self.in_split = split(site.in_features)
        self.out_split = split(site.out_features)
        bound = 1.0 / math.sqrt(self.in_split[1])
        right_RVQ = torch.empty(config.rank, self.out_split[1], self.in_split[1])
        self.left_RUP = nn.Parameter(torch.zeros(config.rank, self.out_split[0], self.in_split[0]))
        self.right_RVQ = nn.Parameter(right_RVQ.uniform_(-bound, bound, generator=generator))
        self.scale = config.alpha / config.rank
        self.index = index
        self.state = state

    def forward(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        state = self.state
        leading, (rows, columns) = x_BTI.shape[:-1], self.in_split
        x_BTPQ = x_BTI.reshape(*leading, rows, columns)
        z_BTPN = down(x_BTPQ, self.right_RVQ.flatten(0, 1))
        z_BTPRV = z_BTPN.view(*leading, rows, self.rank, self.out_split[1])
        z_BTPRV = z_BTPRV * state.codes[self.index][:, :, None, :, None].to(z_BTPN.dtype)
        z_BTVM = z_BTPRV.permute(0, 1, 4, 3, 2).flatten(-2)
        left_UM = self.left_RUP.transpose(0, 1).flatten(1)
        delta_BTO = nn.functional.linear(z_BTVM, left_UM).transpose(-1, -2).flatten(-2)
        return add_delta(y_BTO, delta_BTO, self.scale * state.strength, state.strength_rows)


class KroneckerAdapter(Adapter):
    """A sum of Kronecker products a site, weighted by the prompt."""

    kind: ClassVar[str] = "kronecker"
    config_class: ClassVar[type[AdapterConfig]] = KroneckerConfig
    config: KroneckerConfig
    controller: SequenceController

    @classmethod
    def build(
        cls,
        config: KroneckerConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        sites = adapted_sites(config, sites)
        adapter = cls(config, sites, hidden_size)
        for index, site in enumerate(sites):
            adapter.layers.append(KroneckerLayer(config, site, index, adapter.state, generator))
        adapter.feature_layer = config.feature_layer
        adapter.controller = new_controller(
            config, hidden_size, len(sites) * config.rank, head_bias=1.0, generator=generator
        )
        return adapter

    @classmethod
    def examples(cls) -> Sequence[KroneckerConfig]:
        return (
            KroneckerConfig(rank=3, controller_width=4),
            KroneckerConfig(
                rank=2, where="targets", targets="all-linear", feature_layer=1, controller_width=3
            ),
        )

    @classmethod
    def count_parameters(
        cls, config: KroneckerConfig, sites: Sequence[Site], hidden_size: int
    ) -> int:
        sites = adapted_sites(config, sites)
        per_term = 0
        for site in sites:
            (p, q), (u, v) = split(site.in_features), split(site.out_features)
            per_term += u * p + v * q
        controller = count_controller(config, hidden_size, len(sites) * config.rank)
        return config.rank * per_term + controller

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        per_term = 0
        for site in self.sites:
            (p, q), (u, v) = split(site.in_features), split(site.out_features)
            per_term += p * v * (q + u)
        controller = self.controller.forward_flops(batch=batch, seq_len=seq_len)
        return 2 * batch * seq_len * self.config.rank * per_term + controller

    def encode(self, h_BTD: Tensor, prefix_mask_BT: Tensor, side_BF: Tensor | None) -> Tensor:
        code_BN: Tensor = self.controller(h_BTD, prefix_mask_BT, side_BF)
        return code_BN.view(code_BN.shape[0], len(self.sites), -1)

    def controller_parameters(self) -> list[nn.Parameter]:
        return list(self.controller.parameters())


def adapted_sites(config: KroneckerConfig, sites: Sequence[Site]) -> tuple[Site, ...]:
    """The sites that `where` leaves of the targets, after the features."""
    after = at_or_after(config, sites)
    return mlp_outputs(after) if config.where == "mlp_output" else after
