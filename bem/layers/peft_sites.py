"""PEFT's own layers at our sites: what the baselines that PEFT has are made of.

A small model stands in for the base: one stand-in linear a site, which has the base's weight and
returns the output that the base has just computed. PEFT's tuner wraps it as it wraps any model,
so initialisation, forward, rank allocation and weighted merging are PEFT's code, unchanged, while
the host, its contexts and its checkpoints treat the result as any adapter. It knows no PEFT method.

Legend: B rows, T positions, I inputs, O outputs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Self

import torch
from peft import get_peft_model
from torch import Tensor, nn

from bem.errors import InvalidInputError
from bem.interfaces import Adapter, AdapterLayer, AdapterState, Site
from bem.nf4 import dense_weight, load_bitsandbytes

NAME = "default"
"""The adapter's name inside PEFT."""


class StandIn(nn.Linear):
    """A linear with the base's weight, not registered as a parameter, and a given output."""

    def __init__(self, site: Site) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = site.in_features, site.out_features
        self.given_BTO: Tensor | None = None
        self._linear: tuple[Any, ...] = ()  # a tuple: not registered as a submodule

    def read(self, linear: nn.Module) -> None:
        """Refer to the weight and bias of the base's own linear from now on."""
        self._linear = (linear,)

    @property
    def weight(self) -> Any:  # type: ignore[override]
        """The base's, (O, I), as a linear has it; before `read` zeros of no size in memory.

        Detached: a plain tensor, since PEFT asks for the module of a parameter's class, which
        torch.compile cannot trace.
        """
        if not self._linear:
            return torch.zeros(()).expand(self.out_features, self.in_features)
        return dense_weight(self._linear[0]).detach()

    @property
    def bias(self) -> Any:  # type: ignore[override]
        """The base's."""
        return self._linear[0].bias if self._linear else None

    def forward(self, x_BTI: Tensor) -> Tensor:
        """What the base has computed for this very input."""
        assert self.given_BTO is not None
        return self.given_BTO


class StandInModel(nn.Module):
    """The stand-ins of all sites, named s0, s1, ... under `model`, as PEFT expects of a model."""

    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__()
        load_bitsandbytes()  # PEFT imports it where it is installed: here, without its noise
        self.config = {"model_type": "custom"}
        self.hf_device_map = {"": "cpu"}  # PEFT would look for a first parameter; there is none
        self.model = nn.Module()
        for index, site in enumerate(sites):
            self.model.add_module(f"s{index}", StandIn(site))
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # moves with the rest

    def forward(self, *args: Any, **kwargs: Any) -> SimpleNamespace:
        """A loss of zero: what PEFT adds to a model's loss is then all of it."""
        return SimpleNamespace(loss=self.zero.clone())


class PeftLayer(AdapterLayer):
    """PEFT's layer at one site, called with the base's output for its base layer's."""

    def __init__(self, peft_layer: Any, state: AdapterState, *, in_place: bool) -> None:
        """`in_place`: PEFT adds to the base layer's output itself, so it gets a copy."""
        super().__init__()
        self._peft_layer = (peft_layer,)  # a tuple: registered once, in the adapter's tuner
        self.state = state
        self.in_place = in_place

    @property
    def peft_layer(self) -> Any:
        """The layer inside PEFT's tuner."""
        return self._peft_layer[0]

    def forward(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        state = self.state
        out_BTO = self.output(x_BTI, y_BTO)
        if state.strength == 1.0 and state.strength_rows is None:
            return out_BTO
        delta_BTO = (out_BTO - y_BTO) * state.strength
        if state.strength_rows is not None:
            delta_BTO = delta_BTO * state.strength_rows.to(delta_BTO.dtype)
        return y_BTO + delta_BTO

    def output(self, x_BTI: Tensor, y_BTO: Tensor, **kwargs: Any) -> Tensor:
        """PEFT's forward; `kwargs` are the layer's own."""
        stand_in = self.peft_layer.get_base_layer()
        stand_in.given_BTO = y_BTO.clone() if self.in_place else y_BTO
        out_BTO: Tensor = self.peft_layer(x_BTI, **kwargs)
        stand_in.given_BTO = None
        return out_BTO


class PeftAdapter(Adapter):
    """An adapter whose layers are PEFT's. A kind says which PEFT config it is."""

    adds_in_place: bool = False
    """Whether PEFT's layer changes the base layer's output in place."""
    tuner: Any
    """The `PeftModel` over the stand-ins; it owns every parameter."""

    @classmethod
    @abstractmethod
    def peft_config(cls, config: Any, names: list[str]) -> Any:
        """PEFT's config for our config, with `names` as target modules."""

    @classmethod
    def build(
        cls,
        config: Any,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        adapter = cls(config, sites, hidden_size)
        with drawing_from(generator):
            adapter.tuner = get_peft_model(
                StandInModel(sites), cls.peft_config(config, site_names(sites)), NAME
            )
        adapter.make_layers()
        return adapter

    def make_layers(self, layer_class: type[PeftLayer] = PeftLayer) -> None:
        """One layer a site over what the tuner put there."""
        for name in site_names(self.sites):
            layer = self.tuner.get_submodule(f"base_model.model.model.{name}")
            self.layers.append(layer_class(layer, self.state, in_place=self.adds_in_place))

    def bind(self, linears: Sequence[nn.Module]) -> None:
        for layer, linear in zip(self.peft_layers(), linears, strict=True):
            layer.get_base_layer().read(linear)

    def peft_layers(self) -> list[Any]:
        """PEFT's layers in the order of sites."""
        made = []
        for layer in self.layers:
            assert isinstance(layer, PeftLayer)
            made.append(layer.peft_layer)
        return made


@torch.no_grad()
def copy_experts(
    adapter: PeftAdapter,
    names: Sequence[str],
    experts: Mapping[str, Adapter],
    peft_names: Sequence[str],
) -> None:
    """Static adapters of the host, by name, into PEFT's LoRAs of scale 1 (`peft_names`)."""
    for name, peft_name in zip(names, peft_names, strict=True):
        if name not in experts:
            known = ", ".join(experts) or "none"
            raise InvalidInputError(f"Unknown expert '{name}'. On this base: {known}.")
        expert = experts[name]
        index_of = {site.name: index for index, site in enumerate(expert.sites)}
        for site, layer in zip(adapter.sites, adapter.peft_layers(), strict=True):
            if site.name not in index_of:
                raise InvalidInputError(f"Expert '{name}' does not adapt '{site.name}'.")
            down_RI, up_OR = expert.factors(index_of[site.name])
            weight_RI = layer.lora_A[peft_name].weight
            if weight_RI.shape != down_RI.shape:
                raise InvalidInputError(
                    f"Expert '{name}' has rank {down_RI.shape[0]}, the config says "
                    f"{weight_RI.shape[0]}."
                )
            weight_RI.copy_(down_RI)
            layer.lora_B[peft_name].weight.copy_(up_OR)


def site_names(sites: Sequence[Site]) -> list[str]:
    """What the stand-ins are called."""
    return [f"s{index}" for index in range(len(sites))]


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """PEFT draws from the global generator: inside, that one is seeded from `generator`."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
