"""Generated BEM: y + (alpha / rank) * up (c * (down x)), c from the prompt, from past chunks, from
the token, or their product. A decode step runs in the form of `steps`.

Legend: B rows, T positions, I inputs, O outputs, R rank, D hidden size, F side features, S sites,
N all codes of a row (S times R).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from bem.adapters.generated.config import GeneratedConfig
from bem.adapters.generated.steps import KeptStep
from bem.composition.trust import gram, into_trust_region
from bem.errors import InvalidInputError
from bem.interfaces import (
    Adapter,
    AdapterConfig,
    AdapterLayer,
    AdapterState,
    CausalCodes,
    Factors,
    Site,
    StackShape,
)
from bem.kernels import Delta, fused_delta
from bem.layers.lowrank import add_up, down, uniform_down, zero_up
from bem.mixed.products import RowProducts
from bem.routing.chunks import ChunkController
from bem.routing.controller import SequenceController
from bem.routing.uncertainty import ConfidenceHead


class ContextCodeLayer(AdapterLayer):
    """One site of a sequence-code or chunk-code BEM: its code stands in the state."""

    def __init__(
        self,
        config: GeneratedConfig,
        site: Site,
        index: int,
        state: AdapterState,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.down_RI = uniform_down(config.rank, site.in_features, generator)
        self.up_OR = zero_up(site.out_features, config.rank)
        self.scale = config.alpha / config.rank
        self.trust_radius = config.trust_radius
        self.index = index
        self.state = state
        self._kept = KeptStep()

    def forward(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        state = self.state
        c_BXR = state.codes[self.index] if state.codes else state.causal_codes[self.index]
        if self.trust_radius is not None:
            c_BXR = held(c_BXR, self.down_RI, self.up_OR, self.trust_radius / self.scale)
        scale = self.scale * state.strength
        if state.may_fuse():
            made = Delta(
                y_BTO=y_BTO,
                down_RI=self.down_RI,
                up_OR=self.up_OR,
                scale=scale,
                code_BXR=c_BXR,
            )
            return fused_delta(x_BTI, made)
        # A graph that is traced would hold for the tensors of this step only.
        if not torch.compiler.is_compiling():
            step = self._kept.of(self, state, x_BTI, y_BTO)
            if step is not None:
                return step.add(x_BTI, y_BTO, c_BXR, scale)
        z_BTR = down(x_BTI, self.down_RI) * c_BXR
        return add_up(y_BTO, z_BTR, self.up_OR, scale, state.strength_rows)

    def mixed(self, rows: RowProducts, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        return rows.add_up(y_BTO, rows.down(x_BTI, "down_RI"), "up_OR")

    def mixed_with_base(self, rows: RowProducts, base: nn.Module, x_BTI: Tensor) -> Tensor | None:
        return rows.with_base(base, x_BTI, "down_RI", "up_OR")


class TokenCodeLayer(AdapterLayer):
    """One site of a token-code BEM: c = 2 sigmoid(gate z + bias) with z = down x, so 1 at first.

    In a hierarchy c is multiplied by the sequence code and the chunk code that stand in the state.
    """

    def __init__(
        self,
        config: GeneratedConfig,
        site: Site,
        index: int,
        state: AdapterState,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.down_RI = uniform_down(config.rank, site.in_features, generator)
        self.up_OR = zero_up(site.out_features, config.rank)
        self.gate_RR = nn.Parameter(torch.zeros(config.rank, config.rank))
        self.gate_bias_R = nn.Parameter(torch.zeros(config.rank))
        self.scale = config.alpha / config.rank
        self.trust_radius = config.trust_radius
        self.in_hierarchy = config.code == "hierarchy"
        self.index = index
        self.state = state
        self._kept = KeptStep()

    def forward(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        state = self.state
        if state.may_fuse() and self.trust_radius is None:
            return fused_delta(x_BTI, self._fused(y_BTO))
        # A graph that is traced would hold for the tensors of this step only.
        if self.trust_radius is None and not torch.compiler.is_compiling():
            step = self._kept.of(self, state, x_BTI, y_BTO)
            if step is not None:
                coarse_B1R = state.coarse(self.index) if self.in_hierarchy else None
                return step.add(x_BTI, y_BTO, coarse_B1R, 2 * self.scale * state.strength)
        z_BTR = down(x_BTI, self.down_RI)
        c_BTR = torch.sigmoid(nn.functional.linear(z_BTR, self.gate_RR, self.gate_bias_R))
        if state.code_map is not None:
            c_BTR = state.code_map(c_BTR)
        if state.trace is not None:
            state.trace.append(2 * c_BTR.detach())
        if self.in_hierarchy:
            c_BTR = c_BTR * state.coarse(self.index).to(c_BTR.dtype)
        if state.site_codes is not None:
            state.site_codes[self.index] = 2 * c_BTR.detach()
        if self.trust_radius is not None:
            c_BTR = held(c_BTR, self.down_RI, self.up_OR, self.trust_radius / (2 * self.scale))
        return add_up(
            y_BTO,
            z_BTR * c_BTR,
            self.up_OR,
            2 * self.scale * state.strength,
            state.strength_rows,
        )

    def _fused(self, y_BTO: Tensor) -> Delta:
        state = self.state
        coarse_BTR = None
        if self.in_hierarchy:
            coarse_BTR = state.coarse(self.index)
        return Delta(
            y_BTO=y_BTO,
            down_RI=self.down_RI,
            up_OR=self.up_OR,
            scale=2 * self.scale * state.strength,
            code_BXR=coarse_BTR,
            gate_RR=self.gate_RR,
            gate_bias_R=self.gate_bias_R,
        )

    def mixed(self, rows: RowProducts, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        z_BTZ, gate_BTZ = rows.down_gated(x_BTI, "down_RI", "gate_RR", "gate_bias_R")
        return rows.add_up(y_BTO, z_BTZ * torch.sigmoid(gate_BTZ), "up_OR")


def held(code_BXR: Tensor, down_RI: Tensor, up_OR: Tensor, radius: float) -> Tensor:
    """The code with ||up diag(code) down||_F <= radius."""
    return into_trust_region(code_BXR, gram(down_RI, up_OR), radius)


class GeneratedAdapter(Adapter):
    """A low-rank delta a site whose rank directions are weighted by a code."""

    kind: ClassVar[str] = "generated"
    config_class: ClassVar[type[AdapterConfig]] = GeneratedConfig
    config: GeneratedConfig
    controller: SequenceController
    chunk_controller: ChunkController

    @classmethod
    def build(
        cls,
        config: GeneratedConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        sites = adapted_sites(config, sites)
        adapter = cls(config, sites, hidden_size)
        layer_class = TokenCodeLayer if config.gates_tokens else ContextCodeLayer
        for index, site in enumerate(sites):
            adapter.layers.append(layer_class(config, site, index, adapter.state, generator))
        adapter.reads_prompt = config.reads_prompt
        adapter.streams = config.streams
        if config.reads_prompt or config.streams:
            adapter.feature_layer = config.feature_layer
        if config.reads_prompt:
            adapter.controller = SequenceController(
                hidden_size=hidden_size,
                side_size=config.side_size,
                width=config.controller_width,
                code_size=len(sites) * config.rank,
                pool=config.pool,
                head_spread=config.code_spread,
                head_bias=1.0,
                generator=generator,
            )
        if config.uncertainty:
            adapter.confidence = ConfidenceHead(config.controller_width)
        if config.streams:
            adapter.chunk_controller = ChunkController(
                hidden_size=hidden_size,
                width=config.controller_width,
                code_size=len(sites) * config.rank,
                chunk_size=config.chunk_size,
                decay=config.chunk_decay,
                head_spread=config.code_spread,
                generator=generator,
            )
        return adapter

    @classmethod
    def examples(cls) -> Sequence[GeneratedConfig]:
        return (
            GeneratedConfig(rank=3, controller_width=5),
            GeneratedConfig(rank=2, controller_width=4, pool="mean", feature_layer=1),
            GeneratedConfig(rank=2, pool="last", feature_layer=1, targets="mlp"),
            GeneratedConfig(rank=3, code="token"),
            GeneratedConfig(rank=2, code="chunk", chunk_size=3, controller_width=4),
            GeneratedConfig(
                rank=2,
                code="hierarchy",
                chunk_size=2,
                chunk_decay=0.5,
                code_spread=2.0,
                feature_layer=1,
            ),
            GeneratedConfig(rank=3, uncertainty=True, trust_radius=0.5, controller_width=4),
        )

    @classmethod
    def count_parameters(
        cls, config: GeneratedConfig, sites: Sequence[Site], hidden_size: int
    ) -> int:
        sites = adapted_sites(config, sites)
        width, codes = config.controller_width, len(sites) * config.rank
        count = config.rank * sum(site.in_features + site.out_features for site in sites)
        if config.gates_tokens:
            count += codes * (config.rank + 1)
        if config.streams:
            count += ChunkController.count_parameters(
                hidden_size=hidden_size, width=width, code_size=codes
            )
        if config.reads_prompt:
            count += SequenceController.count_parameters(
                hidden_size=hidden_size,
                side_size=config.side_size,
                width=width,
                code_size=codes,
                pool=config.pool,
            )
        if config.uncertainty:
            count += ConfidenceHead.count_parameters(width)
        return count

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        config = self.config
        factors = config.rank * sum(site.in_features + site.out_features for site in self.sites)
        squares = len(self.sites) * config.rank**2
        flops = 2 * batch * seq_len * factors
        if config.gates_tokens:
            flops += 2 * batch * seq_len * squares
        if config.reads_prompt:
            flops += self.controller.forward_flops(batch=batch, seq_len=seq_len)
        if config.streams:
            flops += self.chunk_controller.forward_flops(batch=batch, seq_len=seq_len)
        if config.uncertainty:
            flops += 2 * batch * config.controller_width
        if config.trust_radius is not None:
            codes = batch if config.code == "sequence" else batch * seq_len
            flops += 2 * (config.rank * factors + codes * squares)
        return flops

    def encode(self, h_BTD: Tensor, prefix_mask_BT: Tensor, side_BF: Tensor | None) -> Tensor:
        u_BH = self.controller.features(h_BTD, prefix_mask_BT, side_BF)
        code_BN = self.controller.code(u_BH)
        code_BSR = code_BN.view(code_BN.shape[0], len(self.sites), -1)
        if self.confidence is None:
            return code_BSR
        return self.confidence.fade(
            code_BSR, u_BH, static=self.static_code(), signals=self.state.signals
        )

    def stack_shape(self) -> StackShape | None:
        config = self.config
        if config.code not in ("sequence", "token") or config.trust_radius is not None:
            return None
        return StackShape(
            kind=self.kind, variant=config.code, rank=config.rank, sites=self.site_names()
        )

    def prompt_controller(self) -> SequenceController | None:
        plain = self.config.reads_prompt and self.confidence is None
        return self.controller if plain else None

    def stack_scale(self) -> float:
        scale = self.config.alpha / self.config.rank
        return 2 * scale if self.config.gates_tokens else scale

    def advance(
        self, h_BTD: Tensor, valid_BT: Tensor, past: Mapping[str, Tensor] | None
    ) -> CausalCodes:
        codes_BKN, chunk_BT, state = self.chunk_controller(h_BTD, valid_BT, past)
        codes_BKSR = codes_BKN.view(*codes_BKN.shape[:2], len(self.sites), -1)
        decoding = past is not None and h_BTD.shape[1] == 1 and not torch.is_grad_enabled()
        return CausalCodes(
            codes_BKSR=codes_BKSR,
            chunk_BT=chunk_BT,
            state=state,
            source=past["code"] if past is not None and decoding else None,
        )

    def coded_factors(self, index: int, code_R: Tensor) -> Factors:
        layer = self.layers[index]
        assert isinstance(layer, ContextCodeLayer | TokenCodeLayer)
        if layer.trust_radius is not None:
            radius = layer.trust_radius / layer.scale
            code_R = held(code_R, layer.down_RI, layer.up_OR, radius).detach()
        return layer.down_RI.detach(), layer.up_OR.detach() * (layer.scale * code_R)

    def controller_parameters(self) -> list[nn.Parameter]:
        factors = ("down_RI", "up_OR")
        return [p for name, p in self.named_parameters() if not name.endswith(factors)]


def adapted_sites(config: GeneratedConfig, sites: Sequence[Site]) -> tuple[Site, ...]:
    """The sites at or after the layer whose input the code is read from."""
    if config.code == "token":
        return tuple(sites)
    adapted = tuple(site for site in sites if site.layer >= config.feature_layer)
    if not adapted:
        raise InvalidInputError(
            f"feature_layer is {config.feature_layer}: no target lies in that layer or after it."
        )
    return adapted
