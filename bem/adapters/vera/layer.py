"""PEFT's VeRA over our sites.

Legend: I inputs, O outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from peft import VeraConfig as PeftConfig
from torch import Tensor

from bem.adapters.vera.config import VeraConfig
from bem.interfaces import Adapter, AdapterConfig, Factors, Site
from bem.layers.peft_sites import NAME, PeftAdapter


class VeraAdapter(PeftAdapter):
    """Two vectors a site around random factors that all sites share."""

    kind: ClassVar[str] = "vera"
    config_class: ClassVar[type[AdapterConfig]] = VeraConfig
    config: VeraConfig
    projection_RI: Tensor
    projection_OR: Tensor

    @classmethod
    def build(
        cls,
        config: VeraConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        adapter = super().build(config, sites, hidden_size, generator=generator, experts=experts)
        # PEFT draws the projections again from their seed; kept here too, so that a checkpoint
        # holds them whatever a later library draws. Same memory: loading fills PEFT's own.
        model = adapter.tuner.base_model
        adapter.register_buffer("projection_RI", model.vera_A[NAME])
        adapter.register_buffer("projection_OR", model.vera_B[NAME])
        return adapter

    @classmethod
    def peft_config(cls, config: VeraConfig, names: list[str]) -> Any:
        made = PeftConfig(
            r=config.rank,
            target_modules=names,
            d_initial=config.d_initial,
            projection_prng_key=config.projection_seed,
        )
        made.save_projection = False  # `build` keeps it once; PEFT would keep it at every site
        return made

    @classmethod
    def examples(cls) -> Sequence[VeraConfig]:
        return (VeraConfig(rank=6),)

    @classmethod
    def count_parameters(cls, config: VeraConfig, sites: Sequence[Site], hidden_size: int) -> int:
        return sum(config.rank + site.out_features for site in sites)

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        factors = self.config.rank * sum(s.in_features + s.out_features for s in self.sites)
        return 2 * batch * seq_len * factors

    def factors(self, index: int) -> Factors:
        layer, site = self.peft_layers()[index], self.sites[index]
        down_RI = layer.vera_A[NAME][:, : site.in_features] * layer.vera_lambda_d[NAME][:, None]
        up_OR = layer.vera_B[NAME][: site.out_features] * layer.vera_lambda_b[NAME][:, None]
        return down_RI.detach(), up_OR.detach()
