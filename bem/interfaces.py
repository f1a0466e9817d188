"""What an adapter is: the abstract classes that every folder in `bem/adapters` fills in.

This file knows neither how linears are wrapped (`injection`) nor which adapters exist
(`registry`).

Legend: B rows, T positions, I inputs and O outputs of a linear, R rank, D hidden size of the base,
F side features, S sites.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from bem.errors import InvalidInputError
from bem.routing.uncertainty import ConfidenceHead
from bem.state_tree import Stateful

if TYPE_CHECKING:
    from bem.mixed.products import RowProducts
    from bem.routing.controller import SequenceController

Factors = tuple[Tensor, Tensor]
"""A static low-rank delta of one site: (down_RI, up_OR), scale already in `up_OR`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """One linear of the base that an adapter changes."""

    name: str
    """Its module path in the base model."""
    layer: int
    """Index of the decoder layer that holds it."""
    in_features: int
    out_features: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StackShape:
    """What adapters have in common whose factors can be stacked."""

    kind: str
    variant: str
    """What else must be equal, within the kind."""
    rank: int
    sites: tuple[str, ...]
    """Names of the sites."""


class AdapterConfig(BaseModel):
    """What every adapter's config has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: ClassVar[str]
    """The adapter's folder name."""
    targets: str | tuple[str, ...] = "all-linear"
    """A preset ("attention", "mlp", "all-linear") or suffixes of module names."""

    @property
    def reads_side(self) -> bool:
        """Whether such an adapter can read side signals: it has a field `side_size` and uses it."""
        return False


class AdapterState:
    """What one forward pass tells the layers of one adapter. Shared by them, set by the host."""

    __slots__ = (
        "auxiliary",
        "causal_codes",
        "causal_source",
        "code_map",
        "codes",
        "fused",
        "kept_causal",
        "kept_coarse",
        "recomputed",
        "signals",
        "site_codes",
        "spread_of",
        "strength",
        "strength_rows",
        "token_mask_BT",
        "trace",
    )

    def __init__(self) -> None:
        self.strength: float = 1.0
        self.strength_rows: Tensor | None = None
        """(B, 1, 1) or (B, T, 1), beside `strength`."""
        self.codes: Sequence[Tensor] = ()
        """Sequence codes, one (B, 1, R) tensor a site."""
        self.spread_of: Tensor | None = None
        """The tensor that `codes` are views of, where a decode step may take them over."""
        self.code_map: Callable[[Tensor], Tensor] | None = None
        self.trace: list[Tensor] | None = None
        self.auxiliary: list[Tensor] | None = None
        """Where layers put their auxiliary loss terms; None where none are asked for."""
        self.recomputed = False
        """Whether gradient checkpointing runs the layers again: what they count is counted."""
        self.token_mask_BT: Tensor | None = None
        """True at the real tokens of this forward, (B, T); None: there is no padding."""
        self.causal_codes: Sequence[Tensor] = ()
        """Causal codes, one (B, T, R) tensor a site, of adapters that stream."""
        self.causal_source: Tensor | None = None
        """See `CausalCodes.source`."""
        self.kept_causal: tuple[Tensor, Sequence[Tensor]] | None = None
        """`causal_source` and the `causal_codes` made of it at a decode step."""
        self.kept_coarse: tuple[Tensor, Tensor, tuple[Tensor, ...]] | None = None
        self.site_codes: dict[int, Tensor] | None = None
        """The code at each site, where the routing context asks for a record."""
        self.fused = False
        """Whether layers that have a kernel use it (`AdapterHost.fuse`)."""
        self.signals: dict[str, Tensor] | None = None
        """What else a record holds, by name and with gradient (a confidence, an unfaded code)."""

    def may_fuse(self) -> bool:
        """Whether this forward may run in kernels: they know one strength, and record nothing."""
        recorded = self.trace is not None or self.site_codes is not None
        return self.fused and not recorded and self.strength_rows is None and not self.code_map

    def coarse(self, index: int) -> Tensor:
        """Sequence code times causal code at a site. Over decode steps that change neither, the
        products stay: a code of 16 tokens' chunks changes at every sixteenth."""
        sequence, source = self.spread_of, self.causal_source
        if sequence is None or source is None or torch.compiler.is_compiling():
            return self.codes[index] * self.causal_codes[index]
        kept = self.kept_coarse
        if kept is None or kept[0] is not sequence or kept[1] is not source:
            products = [a * b for a, b in zip(self.codes, self.causal_codes, strict=True)]
            kept = self.kept_coarse = (sequence, source, tuple(products))
        return kept[2][index]

    def snapshot(self) -> tuple[Any, ...]:
        """Everything, for `restore` when gradient checkpointing runs a layer again."""
        return (
            self.strength,
            self.strength_rows,
            self.codes,
            self.code_map,
            self.token_mask_BT,
            self.causal_codes,
            self.auxiliary is not None,
        )

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Back to a snapshot; a recomputed layer records no trace. It computes its loss term again,
        since the same operations must run, but into a list that nobody reads."""
        (
            self.strength,
            self.strength_rows,
            self.codes,
            self.code_map,
            self.token_mask_BT,
            self.causal_codes,
            asked,
        ) = snapshot
        self.spread_of = self.causal_source = None
        self.recomputed = True
        self.trace = None
        self.auxiliary = [] if asked else None
        self.site_codes = None
        self.signals = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CausalCodes:
    """Codes that change along the sequence, one for each chunk of it."""

    codes_BKSR: Tensor
    """The codes in force in the K chunks that these positions touch."""
    chunk_BT: Tensor
    """Which of the K is in force at each position."""
    state: Mapping[str, Tensor]
    """What the next forward needs, rows first."""
    source: Tensor | None = None
    """At a decode step: the tensor that holds these codes and no others. While a later step names
    the same one, what was made of its codes may stay."""


class AdapterLayer(nn.Module, ABC):
    """The part of an adapter at one site."""

    @abstractmethod
    def forward(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        """The site's output with the adapter: `y_BTO` plus its delta for input `x_BTI`."""

    def mixed(self, rows: RowProducts, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        """The same for a mixed batch, from the parameters of all adapters of one `stack_shape`:
        `rows` multiplies each row by its own. Scale, strength and code stand in `rows.add_up`."""
        raise InvalidInputError(f"{type(self).__name__} has no stacked form.")

    def mixed_with_base(self, rows: RowProducts, base: nn.Module, x_BTI: Tensor) -> Tensor | None:
        """`mixed` of the base's output, with the base's product in the same node of the graph;
        None where these rows have no such."""
        return None


class Adapter(nn.Module, ABC):
    """One adapter over all its sites. Built by `build`, driven by `AdapterHost`."""

    kind: ClassVar[str]
    config_class: ClassVar[type[AdapterConfig]]
    starts_at_base: bool = True
    """Whether a new adapter leaves the base's output exactly as it was."""
    has_auxiliary_loss: bool = False
    """Whether training adds `auxiliary_loss` to the task's loss."""
    has_after_step: bool = False
    """Whether training calls `after_step`."""
    reads_base_output: bool = False
    """Whether each forward is preceded by one of the base alone, for `read_base`."""
    gradient_free: bool = False
    """Whether its parameters are searched and none takes a gradient: `fit` cannot train it."""
    routes_hard: bool = False
    """Whether what acts is a step function of the input: reduced precision may choose otherwise."""
    feature_layer: int | None = None
    """The decoder layer whose input `encode` reads at prefill, and `advance` at every forward;
    None: neither a sequence code nor a causal one."""
    reads_prompt: bool = True
    """With a feature layer: whether there is a sequence code (`encode`)."""
    streams: bool = False
    """With a feature layer: whether there are causal codes (`advance`)."""

    def __init__(self, config: AdapterConfig, sites: Sequence[Site], hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.sites = tuple(sites)
        self._site_names = tuple(site.name for site in self.sites)
        self.hidden_size = hidden_size
        self.state = AdapterState()
        self.layers = nn.ModuleList()
        """One `AdapterLayer` a site, in the order of `sites`."""
        self.confidence: ConfidenceHead | None = None
        """How sure the controller of the sequence code is, where the config asks for it."""

    @classmethod
    @abstractmethod
    def build(
        cls,
        config: Any,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        """A fresh adapter. `experts` holds the host's other adapters, for those that mix them;
        it is None when a checkpoint is about to be loaded."""

    @classmethod
    @abstractmethod
    def examples(cls) -> Sequence[AdapterConfig]:
        """Small configs on which the contract tests run. Experts there are named expert_0 and
        expert_1: two rank-2 LoRAs."""

    @classmethod
    @abstractmethod
    def count_parameters(cls, config: Any, sites: Sequence[Site], hidden_size: int) -> int:
        """Trainable parameters by formula, without building anything."""

    @abstractmethod
    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        """FLOPs that the adapter adds to one forward, products only, a multiply-add is two."""

    def encode(self, h_BTD: Tensor, prefix_mask_BT: Tensor, side_BF: Tensor | None) -> Tensor:
        """The sequence code (B, S, R) from features of the prompt."""
        raise InvalidInputError(f"Adapter kind '{self.kind}' has no sequence code.")

    def advance(
        self, h_BTD: Tensor, valid_BT: Tensor, past: Mapping[str, Tensor] | None
    ) -> CausalCodes:
        """Causal codes of these positions, and what the next forward needs to go on.

        A position's code may depend on real tokens up to itself only. `past` is the state that the
        last call returned, None at the first positions.
        """
        raise InvalidInputError(f"Adapter kind '{self.kind}' has no causal codes.")

    def spread(self, codes_BSR: Tensor) -> Sequence[Tensor]:
        """The code of each site, (B, 1, R), as its layer multiplies it in."""
        return codes_BSR.unsqueeze(2).unbind(1)

    def stack_shape(self) -> StackShape | None:
        """In a mixed batch, adapters of equal shapes act together (`AdapterLayer.mixed`); None:
        this one acts on its own rows, apart from the others."""
        return None

    @cached_property
    def kept_stack_shape(self) -> StackShape | None:
        """`stack_shape`, asked once: every forward of a mixed batch wants those of all adapters."""
        return self.stack_shape()

    def site_names(self) -> tuple[str, ...]:
        """The paths of its sites."""
        return self._site_names

    def prompt_controller(self) -> SequenceController | None:
        """The controller whose output is all of `encode`, where that is so: those of a mixed batch
        then run as one."""
        return None

    def stack_scale(self) -> float:
        """With a `stack_shape`: the number that the delta is multiplied by, beside the strength."""
        raise InvalidInputError(f"Adapter kind '{self.kind}' has no stacked form.")

    def static_code(self) -> float:
        """The code of the static path, to which a controller fades where it is unsure."""
        return 1.0

    def controller_parameters(self) -> list[nn.Parameter]:
        """The parameters that decide on the code; they get a lower learning rate."""
        return []

    def auxiliary_loss(self) -> Tensor | None:
        """The weighted sum of the terms that the last forward with gradients left, ready to be
        added to the task's loss; None where there are none. Ask before the backward."""
        terms = self.state.auxiliary
        return torch.stack([term.float() for term in terms]).sum() if terms else None

    def after_step(self, step: int) -> None:
        """Called after optimiser step `step` (from 0), while its gradients are still there."""

    def carried(self) -> dict[str, Stateful]:
        """By name, what training changes beside parameters: a checkpoint of it holds these too."""
        return {"tensors": self} if self.has_after_step else {}

    def factors(self, index: int) -> Factors:
        """The static delta at site `index`; a context-dependent adapter has none."""
        raise InvalidInputError(
            f"Adapter kind '{self.kind}' depends on its context: it has no static delta to merge "
            "or to mix. Distil it to a LoRA first."
        )

    def read_base(self, h_BTD: Tensor) -> Sequence[Tensor]:
        """With `reads_base_output`: the code of each site, (B, T, R), from the base's features."""
        raise InvalidInputError(f"Adapter kind '{self.kind}' reads no pass of the base.")

    def bind(self, linears: Sequence[nn.Module]) -> None:
        """Called when put on a base, with its own linears at `sites`: frozen, to be read only."""

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that training may change; frozen parts are left out."""
        return list(self.parameters())

    def coded_factors(self, index: int, code_R: Tensor) -> Factors:
        """The delta at site `index` for one code of a row, at strength 1."""
        raise InvalidInputError(
            f"Adapter kind '{self.kind}': its delta is not up diag(code) down, so a code gives no "
            "factors."
        )

    def scale_delta(self, index: int, by: float) -> None:
        """Multiply the delta at site `index`, in place."""
        raise InvalidInputError(
            f"Adapter kind '{self.kind}' has no static delta that could be scaled in place."
        )

    def num_parameters(self) -> int:
        """Trainable parameters as they stand."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
