"""Switch LoRA: y + (alpha / rank) * p_e up_e (down_e x), e the most probable expert of the token.

Capacity acts in forwards that take gradients, and there row by row: of the tokens of a row that
choose expert e, the first ceil(capacity_factor * tokens / E) in order of position are taken, the
others are dropped: they get no delta. So other rows, padding and the content of later tokens
change nothing. Without gradients there is no capacity, or cached decoding could not agree with a
full forward.

Legend: B rows, T positions, I inputs, O outputs, E experts, R rank of one expert, N = E * R.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from bem.adapters.switch_lora.config import SwitchLoraConfig
from bem.interfaces import Adapter, AdapterConfig, AdapterLayer, AdapterState, Site
from bem.layers.lowrank import add_up, down, uniform_down, zero_up
from bem.routing.balance import balance_loss
from bem.routing.gates import new_router, router_logits, top_k


@dataclass(frozen=True, kw_only=True, slots=True)
class Drops:
    """What capacity cost in training since the last reset, summed over sites."""

    routed: int
    """Real tokens that chose an expert."""
    dropped: int
    """Those of them whose expert was full."""

    @property
    def share(self) -> float:
        """Dropped tokens as a fraction of all."""
        return self.dropped / self.routed if self.routed else 0.0


class SwitchLoraLayer(AdapterLayer):
    """The experts and the router of one site."""

    def __init__(
        self,
        config: SwitchLoraConfig,
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
        self.scale = config.alpha / config.rank
        self.capacity_factor = config.capacity_factor
        self.balance_weight = config.balance_weight / num_sites
        self.state = state
        self.counts: Tensor | None = None
        """(routed, dropped) of the training forwards since the last reset."""

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
        """(B, T, E): the probability of the chosen expert, 0 elsewhere and at dropped tokens."""
        state = self.state
        logits_BTE = router_logits(x_BTI, self.router_EI)
        p_BTE = logits_BTE.softmax(-1)
        chosen_BTE = top_k(logits_BTE, 1)
        if state.auxiliary is not None:
            loss = balance_loss(p_BTE, chosen_BTE, state.token_mask_BT)
            state.auxiliary.append(self.balance_weight * loss)
        if torch.is_grad_enabled() and self.router_EI.requires_grad:
            chosen_BTE = self._within_capacity(chosen_BTE)
        return p_BTE * chosen_BTE

    def _within_capacity(self, chosen_BTE: Tensor) -> Tensor:
        mask_BT = self.state.token_mask_BT
        if mask_BT is None:
            mask_BT = torch.ones_like(chosen_BTE[:, :, 0])
        taken_BTE = within_capacity(chosen_BTE, mask_BT, self.capacity_factor)
        if not self.state.recomputed:
            routed = mask_BT.sum()
            counts = torch.stack([routed, routed - taken_BTE.sum()])
            self.counts = counts if self.counts is None else self.counts + counts
        return taken_BTE


class SwitchLoraAdapter(Adapter):
    """Several LoRAs a site; each token gets one, while there is room."""

    kind: ClassVar[str] = "switch_lora"
    config_class: ClassVar[type[AdapterConfig]] = SwitchLoraConfig
    routes_hard = True
    config: SwitchLoraConfig

    @classmethod
    def build(
        cls,
        config: SwitchLoraConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        adapter = cls(config, sites, hidden_size)
        adapter.has_auxiliary_loss = config.balance_weight > 0
        for site in sites:
            layer = SwitchLoraLayer(config, site, len(sites), adapter.state, generator)
            adapter.layers.append(layer)
        return adapter

    @classmethod
    def examples(cls) -> Sequence[SwitchLoraConfig]:
        return (
            SwitchLoraConfig(rank=2, experts=3),
            SwitchLoraConfig(rank=2, experts=2, targets="mlp", balance_weight=0.0),
        )

    @classmethod
    def count_parameters(
        cls, config: SwitchLoraConfig, sites: Sequence[Site], hidden_size: int
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

    def drops(self, *, reset: bool = True) -> Drops:
        """Dropped tokens of the training forwards since the last reset."""
        routed = dropped = 0
        for layer in self.layers:
            assert isinstance(layer, SwitchLoraLayer)
            if layer.counts is not None:
                routed, dropped = routed + int(layer.counts[0]), dropped + int(layer.counts[1])
                layer.counts = None if reset else layer.counts
        return Drops(routed=routed, dropped=dropped)


def within_capacity(chosen_BTE: Tensor, mask_BT: Tensor, capacity_factor: float) -> Tensor:
    """The choices that fit, padding taken out: the first of each row, position by position."""
    chosen_BTE = chosen_BTE & mask_BT.unsqueeze(-1)
    share_B = capacity_factor * mask_BT.sum(1) / chosen_BTE.shape[-1]
    place_BTE = chosen_BTE.cumsum(1)
    return chosen_BTE & (place_BTE <= share_B.ceil()[:, None, None])
