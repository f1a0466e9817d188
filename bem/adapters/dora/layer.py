"""PEFT's DoRA over our sites.

Legend: I inputs, O outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from peft import LoraConfig
from torch import nn

from bem.adapters.dora.config import DoraConfig
from bem.errors import InvalidInputError
from bem.interfaces import Adapter, AdapterConfig, Factors, Site
from bem.layers.peft_sites import NAME, PeftAdapter


class DoraAdapter(PeftAdapter):
    """A low-rank change of direction and a trained magnitude for each output."""

    kind: ClassVar[str] = "dora"
    config_class: ClassVar[type[AdapterConfig]] = DoraConfig
    config: DoraConfig
    magnitudes_wait: bool

    @classmethod
    def build(
        cls,
        config: DoraConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        adapter = super().build(config, sites, hidden_size, generator=generator, experts=experts)
        adapter.magnitudes_wait = experts is not None  # a checkpoint brings its own
        return adapter

    @classmethod
    def peft_config(cls, config: DoraConfig, names: list[str]) -> Any:
        return LoraConfig(
            r=config.rank, lora_alpha=config.alpha, target_modules=names, use_dora=True
        )

    def bind(self, linears: Sequence[nn.Module]) -> None:
        """The base's weights are known now: PEFT starts the magnitudes at their norms."""
        super().bind(linears)
        if not self.magnitudes_wait:
            return
        self.magnitudes_wait = False
        for layer in self.peft_layers():
            layer.lora_magnitude_vector[NAME].update_layer(
                base_layer=layer.get_base_layer(),
                lora_A=layer.lora_A[NAME].weight,
                lora_B=layer.lora_B[NAME].weight,
                scaling=layer.scaling[NAME],
            )

    @classmethod
    def examples(cls) -> Sequence[DoraConfig]:
        return (DoraConfig(rank=2, alpha=4.0),)

    @classmethod
    def count_parameters(cls, config: DoraConfig, sites: Sequence[Site], hidden_size: int) -> int:
        return sum(
            config.rank * (site.in_features + site.out_features) + site.out_features
            for site in sites
        )

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        """PEFT multiplies the factors out in each forward, by way of an identity of size I."""
        return sum(
            2
            * self.config.rank
            * (site.in_features + site.out_features)
            * (batch * seq_len + site.in_features)
            for site in self.sites
        )

    def factors(self, index: int) -> Factors:
        raise InvalidInputError(
            "Adapter kind 'dora' rescales the base's own weight: its delta is not of low rank, so "
            "it can be neither merged nor mixed as factors."
        )
