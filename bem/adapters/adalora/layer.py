"""PEFT's AdaLoRA over our sites, with its rank allocation and its loss term.

Legend: I inputs, O outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from peft import AdaLoraConfig as PeftConfig
from torch import Tensor, nn

from bem.adapters.adalora.config import AdaLoraConfig
from bem.errors import InvalidInputError
from bem.interfaces import Adapter, AdapterConfig, Factors, Site
from bem.layers.peft_sites import NAME, PeftAdapter
from bem.state_tree import Stateful


class AdaLoraAdapter(PeftAdapter):
    """A delta in the form of a singular value decomposition; small directions are given up."""

    kind: ClassVar[str] = "adalora"
    config_class: ClassVar[type[AdapterConfig]] = AdaLoraConfig
    adds_in_place = True
    has_after_step = True
    config: AdaLoraConfig

    @classmethod
    def build(
        cls,
        config: AdaLoraConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        adapter = super().build(config, sites, hidden_size, generator=generator, experts=experts)
        adapter.has_auxiliary_loss = config.orthogonality_weight > 0
        return adapter

    @classmethod
    def peft_config(cls, config: AdaLoraConfig, names: list[str]) -> Any:
        return PeftConfig(
            init_r=config.rank,
            target_r=config.target_rank,
            lora_alpha=config.alpha,
            target_modules=names,
            total_step=config.total_steps,
            tinit=config.warmup_steps,
            tfinal=config.final_steps,
            deltaT=config.interval,
            beta1=config.importance_decay,
            beta2=config.uncertainty_decay,
            orth_reg_weight=config.orthogonality_weight,
        )

    @classmethod
    def examples(cls) -> Sequence[AdaLoraConfig]:
        return (AdaLoraConfig(rank=3, alpha=6.0, total_steps=10, warmup_steps=2, final_steps=3),)

    @classmethod
    def count_parameters(
        cls, config: AdaLoraConfig, sites: Sequence[Site], hidden_size: int
    ) -> int:
        return config.rank * sum(site.in_features + site.out_features + 1 for site in sites)

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        """Directions given up are zero, not gone: PEFT multiplies them too."""
        factors = self.config.rank * sum(s.in_features + s.out_features for s in self.sites)
        return 2 * batch * seq_len * factors

    def trainable(self) -> list[nn.Parameter]:
        return [p for name, p in self.named_parameters() if ".ranknum." not in name]

    def auxiliary_loss(self) -> Tensor | None:
        """PEFT's own: it adds the weighted orthogonality term to the (zero) loss of its model."""
        if self.state.auxiliary is None:
            return None
        loss: Tensor = self.tuner.base_model().loss
        return loss

    def after_step(self, step: int) -> None:
        """Importance of every direction, and the next budget: PEFT's `update_and_allocate`."""
        if step >= self.config.total_steps:
            raise InvalidInputError(
                f"Step {step} of an AdaLoRA whose total_steps is {self.config.total_steps}: its "
                "budget is planned over the steps of the whole training."
            )
        self.tuner.base_model.update_and_allocate(step)

    def carried(self) -> dict[str, Stateful]:
        return {**super().carried(), "allocator": _Allocator(self.tuner.base_model)}

    def ranks(self) -> dict[str, int]:
        """Directions still in use, by name of the site."""
        layers = zip(self.sites, self.peft_layers(), strict=True)
        return {site.name: int((layer.lora_E[NAME] != 0).sum()) for site, layer in layers}

    def factors(self, index: int) -> Factors:
        layer = self.peft_layers()[index]
        scale = layer.scaling[NAME] / (layer.ranknum[NAME] + 1e-5)
        down_RI = (layer.lora_A[NAME] * layer.lora_E[NAME]).detach()
        return down_RI, (layer.lora_B[NAME] * scale).detach()


class _Allocator:
    """What PEFT's rank allocator keeps outside of every state dict."""

    _SUMS = ("ipt", "exp_avg_ipt", "exp_avg_unc")

    def __init__(self, model: Any) -> None:
        self._model = model

    def state_dict(self) -> dict[str, Any]:
        held = self._model.rankallocator
        pattern = self._model.peft_config[NAME].rank_pattern or {}
        return {
            "sums": {name: dict(getattr(held, name)) for name in self._SUMS},
            "pattern": {site: [bool(kept) for kept in mask] for site, mask in pattern.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        held = self._model.rankallocator
        for name in self._SUMS:
            setattr(held, name, dict(state_dict["sums"][name]))
        self._model.peft_config[NAME].rank_pattern = dict(state_dict["pattern"])
