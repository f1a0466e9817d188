"""PEFT's X-LoRA over our sites: its classifier on the base's last features, its layers.

Legend: B rows, T positions, I inputs, O outputs, D hidden size, S sites, K experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft import XLoraConfig as PeftConfig
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from bem.adapters.xlora.config import XLoraConfig
from bem.interfaces import Adapter, AdapterConfig, AdapterState, Site
from bem.layers.peft_sites import (
    NAME,
    PeftAdapter,
    PeftLayer,
    StandInModel,
    copy_experts,
    drawing_from,
    site_names,
)


class XLoraLayer(PeftLayer):
    """PEFT's layer with the scalings of its site."""

    def __init__(self, peft_layer: Any, state: AdapterState, *, in_place: bool) -> None:
        super().__init__(peft_layer, state, in_place=in_place)
        self.index = 0
        self.num_sites = 0

    def output(self, x_BTI: Tensor, y_BTO: Tensor, **kwargs: Any) -> Tensor:
        # PEFT wants the scalings of all sites and takes its own
        s_BT1K = self.state.codes[self.index].unsqueeze(2)
        return super().output(x_BTI, y_BTO, scalings=s_BT1K.expand(-1, -1, self.num_sites, -1))


class XLoraAdapter(PeftAdapter):
    """A token-wise mixture of static adapters; only the classifier is trained."""

    kind: ClassVar[str] = "xlora"
    config_class: ClassVar[type[AdapterConfig]] = XLoraConfig
    adds_in_place = True
    starts_at_base = False
    reads_base_output = True
    config: XLoraConfig

    @classmethod
    def build(
        cls,
        config: XLoraConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        adapter = cls(config, sites, hidden_size)
        adapter.routes_hard = config.top_k > 0
        names = [str(index) for index in range(len(config.experts))]
        with TemporaryDirectory() as root, drawing_from(generator):
            folders = {name: str(Path(root) / name) for name in names}
            for name, rank in zip(names, config.expert_ranks, strict=True):
                _write_lora(sites, rank, folders[name])
            peft_config = cls.peft_config(config, names)
            peft_config.hidden_size, peft_config.adapters = hidden_size, folders
            adapter.tuner = get_peft_model(StandInModel(sites), peft_config, NAME)
        adapter.make_layers(XLoraLayer)
        for index, layer in enumerate(adapter.layers):
            assert isinstance(layer, XLoraLayer)
            layer.index, layer.num_sites = index, len(sites)
        if experts is not None:
            copy_experts(adapter, config.experts, experts, names)
        return adapter

    @classmethod
    def peft_config(cls, config: XLoraConfig, names: list[str]) -> Any:
        """Without hidden size and folders, which `build` knows."""
        return PeftConfig(
            hidden_size=1,
            adapters=dict.fromkeys(names, ""),
            layerwise_scalings=config.layerwise,
            xlora_depth=config.depth,
            xlora_size=config.controller_width,
            enable_softmax=config.softmax,
            top_k_lora=config.top_k or None,
            xlora_dropout_p=0.0,
        )

    def read_base(self, h_BTD: Tensor) -> Sequence[Tensor]:
        """PEFT's classifier on the last hidden states."""
        classifier = self.tuner.base_model.internal_xlora_classifier
        with torch.autocast(h_BTD.device.type, enabled=False):
            scalings_BTSK: Tensor = classifier(
                BaseModelOutput(hidden_states=(h_BTD.float(),)), inputs_embeds=h_BTD
            )
        return scalings_BTSK.unbind(2)

    @classmethod
    def examples(cls) -> Sequence[XLoraConfig]:
        experts, ranks = ("expert_0", "expert_1"), (2, 2)
        return (
            XLoraConfig(experts=experts, expert_ranks=ranks),
            XLoraConfig(
                experts=experts,
                expert_ranks=ranks,
                layerwise=False,
                depth=3,
                controller_width=5,
                softmax=False,
                top_k=1,
            ),
        )

    @classmethod
    def count_parameters(cls, config: XLoraConfig, sites: Sequence[Site], hidden_size: int) -> int:
        return sum((rows + 1) * columns for rows, columns in _shapes(config, sites, hidden_size))

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        """Experts and classifier; the host adds the first pass of the base."""
        shapes = _shapes(self.config, self.sites, self.hidden_size)
        factors = sum(self.config.expert_ranks) * sum(
            site.in_features + site.out_features for site in self.sites
        )
        return 2 * batch * seq_len * (factors + sum(rows * columns for rows, columns in shapes))

    def trainable(self) -> list[nn.Parameter]:
        return list(self.tuner.base_model.internal_xlora_classifier.parameters())

    def controller_parameters(self) -> list[nn.Parameter]:
        return self.trainable()


def _shapes(config: XLoraConfig, sites: Sequence[Site], hidden_size: int) -> list[tuple[int, int]]:
    """Inputs and outputs of the classifier's linears."""
    out = len(config.experts) * (len(sites) if config.layerwise else 1)
    sizes = [hidden_size, *[config.controller_width] * (config.depth - 1), out]
    return list(pairwise(sizes))


def _write_lora(sites: Sequence[Site], rank: int, folder: str) -> None:
    """A folder as PEFT reads an expert from; its weights are replaced afterwards."""
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=site_names(sites))
    model = get_peft_model(StandInModel(sites), config)
    config.save_pretrained(folder)
    save_file(get_peft_model_state_dict(model), Path(folder) / "adapter_model.safetensors")
