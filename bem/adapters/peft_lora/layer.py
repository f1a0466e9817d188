"""PEFT's LoRA over our sites. `lora` is our own code for the same function.

Legend: I inputs, O outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from peft import LoraConfig

from bem.adapters.peft_lora.config import PeftLoraConfig
from bem.interfaces import AdapterConfig, Factors, Site
from bem.layers.peft_sites import NAME, PeftAdapter


class PeftLoraAdapter(PeftAdapter):
    """One static low-rank delta a site."""

    kind: ClassVar[str] = "peft_lora"
    config_class: ClassVar[type[AdapterConfig]] = PeftLoraConfig
    config: PeftLoraConfig

    @classmethod
    def peft_config(cls, config: PeftLoraConfig, names: list[str]) -> Any:
        return LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=names)

    @classmethod
    def examples(cls) -> Sequence[PeftLoraConfig]:
        return (PeftLoraConfig(rank=3, alpha=6.0),)

    @classmethod
    def count_parameters(
        cls, config: PeftLoraConfig, sites: Sequence[Site], hidden_size: int
    ) -> int:
        return config.rank * sum(site.in_features + site.out_features for site in sites)

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        return (
            2 * batch * seq_len * self.count_parameters(self.config, self.sites, self.hidden_size)
        )

    def factors(self, index: int) -> Factors:
        layer = self.peft_layers()[index]
        up_OR = layer.lora_B[NAME].weight.detach() * layer.scaling[NAME]
        return layer.lora_A[NAME].weight.detach(), up_OR
