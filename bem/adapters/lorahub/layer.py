"""LoraHub over our sites: PEFT holds the experts and makes their mixture.

Legend: I inputs, O outputs, R rank, K experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from peft import LoraConfig
from torch import Tensor, nn

from bem.adapters.lorahub.config import LoraHubConfig
from bem.errors import InvalidInputError
from bem.interfaces import Adapter, AdapterConfig, Factors, Site
from bem.layers.peft_sites import NAME, PeftAdapter, copy_experts, drawing_from, site_names

MIXTURE = "mixture"
"""The mixture's name inside PEFT."""


class LoraHubAdapter(PeftAdapter):
    """A weighted sum of static adapters; the weights are searched, nothing takes a gradient."""

    kind: ClassVar[str] = "lorahub"
    config_class: ClassVar[type[AdapterConfig]] = LoraHubConfig
    gradient_free = True
    config: LoraHubConfig
    weights_K: Tensor

    @classmethod
    def build(
        cls,
        config: LoraHubConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        adapter = super().build(config, sites, hidden_size, generator=generator, experts=experts)
        adapter.tuner.requires_grad_(False)
        for index, rank in enumerate(config.expert_ranks[1:], start=1):
            with drawing_from(generator):
                adapter.tuner.add_adapter(f"{NAME}_{index}", _lora(rank, site_names(sites)))
        if experts is not None:
            copy_experts(adapter, config.experts, experts, adapter.expert_names())
        adapter.register_buffer("weights_K", torch.zeros(len(config.experts)))
        adapter.set_weights([0.0] * len(config.experts))
        return adapter

    @classmethod
    def peft_config(cls, config: LoraHubConfig, names: list[str]) -> Any:
        return _lora(config.expert_ranks[0], names)

    def expert_names(self) -> list[str]:
        """What the experts are called inside PEFT, in order."""
        return [f"{NAME}_{index}" if index else NAME for index in range(len(self.config.experts))]

    def set_weights(self, weights: Sequence[float]) -> None:
        """Make the mixture anew, by PEFT's `add_weighted_adapter`, and let it act."""
        if len(weights) != len(self.config.experts):
            raise InvalidInputError(
                f"{len(weights)} weights for {len(self.config.experts)} experts: "
                f"{', '.join(self.config.experts)}."
            )
        model = self.tuner.base_model
        if MIXTURE in model.peft_config:
            model.set_adapter(NAME)  # PEFT warns where it has to leave the active one itself
            model.delete_adapter(MIXTURE)
        with torch.random.fork_rng(devices=[]):  # PEFT draws factors that it then overwrites
            model.add_weighted_adapter(
                self.expert_names(),
                [float(weight) for weight in weights],
                MIXTURE,
                combination_type=self.config.combination,
            )
        model.set_adapter(MIXTURE)
        self.tuner.requires_grad_(False)
        self.weights_K.copy_(torch.tensor(weights))

    @classmethod
    def examples(cls) -> Sequence[LoraHubConfig]:
        experts, ranks = ("expert_0", "expert_1"), (2, 2)
        return (
            LoraHubConfig(experts=experts, expert_ranks=ranks),
            LoraHubConfig(experts=experts, expert_ranks=ranks, combination="cat"),
        )

    @classmethod
    def count_parameters(
        cls, config: LoraHubConfig, sites: Sequence[Site], hidden_size: int
    ) -> int:
        """The weights that are searched."""
        return len(config.experts)

    def num_parameters(self) -> int:
        return len(self.config.experts)

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        factors = self.config.rank * sum(s.in_features + s.out_features for s in self.sites)
        return 2 * batch * seq_len * factors

    def trainable(self) -> list[nn.Parameter]:
        return []

    def factors(self, index: int) -> Factors:
        layer = self.peft_layers()[index]
        up_OR = layer.lora_B[MIXTURE].weight.detach() * layer.scaling[MIXTURE]
        return layer.lora_A[MIXTURE].weight.detach(), up_OR


def _lora(rank: int, names: list[str]) -> LoraConfig:
    """A LoRA of scale 1: the experts' scales are in their factors already."""
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
