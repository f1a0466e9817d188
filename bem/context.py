"""What a forward pass is told beside its tokens: the explicit routing context.

One `RoutingContext` belongs to one batch of sequences. It is used for a full forward, or for a
prefill and all its decode steps: codes that were read off the prompt at prefill live in `cache`,
beside the KV cache, so that decoding sees the same code; what causal codes carry from one forward
to the next lives in `streams`. It knows neither models nor adapters.

Legend: B rows, T positions of one forward, F side features, S sites, R code size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bem.errors import RoutingError

if TYPE_CHECKING:
    from bem.mixed.rows import Split

Strength = float | Tensor
"""A number, or a tensor of shape (B,) or (B, T). 0 equals the base exactly."""
Row = str | tuple[str, ...]
"""What acts on one row of a mixed batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """What an adapter with causal codes carries over, as the KV cache does keys and values."""

    positions: int
    """Positions seen so far, padding included: the length of the KV cache that it belongs to."""
    tensors: Mapping[str, Tensor]
    """The adapter's own state, rows first."""

    def take(self, index: Tensor) -> Stream:
        """The state of rows `index`."""
        return Stream(
            positions=self.positions, tensors={k: t[index] for k, t in self.tensors.items()}
        )


@dataclass(kw_only=True, slots=True, eq=False)
class RoutingContext:
    """Everything that adapters may read beside the hidden states."""

    prefix_mask_BT: Tensor | None = None
    """True at prompt positions of the prefill (or full forward); sequence codes read only these."""
    side_BF: Tensor | None = None
    """Side signals, for adapters configured with `side_size` > 0."""
    sides: Mapping[str, Tensor] = field(default_factory=dict)
    """Side signals (B, F) by adapter name, instead of `side_BF`."""
    strength: Strength | Mapping[str, Strength] = 1.0
    """One strength for all active adapters, or one by adapter name (missing: 1). A (B, T) tensor
    belongs to the positions of the prefill; at decode its last column counts."""
    adapters: tuple[str, ...] | None = None
    """Adapters of this forward, instead of what `AdapterHost.use` selected."""
    rows: tuple[Row, ...] | None = None
    """The adapter of each row, or several whose deltas add up, "__base__" for none: a mixed batch,
    whatever `use` selected."""
    codes: Mapping[str, Tensor] = field(default_factory=dict)
    """Sequence codes (B, S, R) to use instead of the controller's, by adapter name."""
    code_map: Callable[[Tensor], Tensor] | None = None
    """Applied to every code, rows first: `lambda c: c[permutation]` shuffles them."""
    unpadded: bool = False
    """Every token of the next forwards is real, though the attention mask does not end with them:
    rows of different lengths that stand left-aligned in one KV cache."""
    record: bool = False
    """Keep every code of the next forwards in `trace`."""
    cache: dict[str, Tensor] = field(default_factory=dict)
    """Sequence codes of the last prefill, by adapter name. Written by the host."""
    streams: dict[str, Stream] = field(default_factory=dict)
    """State of causal codes after the last forward, by adapter name. Written by the host."""
    trace: dict[str, list[Tensor]] = field(default_factory=dict)
    """With `record`: by adapter name, codes in the order in which they were computed."""
    site_codes: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    """With `record`: by adapter name and index of the site, the code of the last forward there,
    (B, 1, R) or (B, T, R)."""
    signals: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """With `record`: by adapter name, what else its controller said, with gradient."""

    split: Split | None = None
    """With `rows`: each adapter's rows and what it keeps for them. Written by the host."""
    whole: RoutingContext | None = None
    """The context of the mixed batch that this one is a part of. Written by the host."""

    def strength_of(self, name: str) -> Strength:
        """The strength of one adapter."""
        if isinstance(self.strength, Mapping):
            return self.strength.get(name, 1.0)
        return self.strength

    def side_of(self, name: str) -> Tensor | None:
        """The side signals of one adapter."""
        return self.sides.get(name, self.side_BF)

    def take(self, index: Tensor) -> RoutingContext:
        """The context of rows `index` (a beam reorder, a sub-batch, or a repetition)."""
        taken = self.part(index)
        if self.rows is not None:
            picked = torch.arange(len(self.rows), device=index.device)[index].tolist()
            taken.rows = tuple(self.rows[i] for i in picked)
            taken.split = None if self.split is None else self.split.take(picked, taken)
        return taken

    def part(self, index: Tensor) -> RoutingContext:
        """The same without `rows`: as if rows `index` were all there is."""

        def rows(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[index]

        def strength(value: Strength) -> Strength:
            return value[index] if isinstance(value, Tensor) and value.dim() else value

        return RoutingContext(
            prefix_mask_BT=rows(self.prefix_mask_BT),
            side_BF=rows(self.side_BF),
            sides={name: side_BF[index] for name, side_BF in self.sides.items()},
            strength={k: strength(v) for k, v in self.strength.items()}
            if isinstance(self.strength, Mapping)
            else strength(self.strength),
            adapters=self.adapters,
            codes={name: code[index] for name, code in self.codes.items()},
            code_map=self.code_map,
            unpadded=self.unpadded,
            record=self.record,
            cache={name: code[index] for name, code in self.cache.items()},
            streams={name: stream.take(index) for name, stream in self.streams.items()},
        )

    def reorder(self, index: Tensor) -> None:
        """Rows `index` from now on, in place: what a beam search does to its KV cache."""
        taken = self.take(index)
        self.prefix_mask_BT, self.side_BF = taken.prefix_mask_BT, taken.side_BF
        self.sides, self.strength, self.codes = taken.sides, taken.strength, taken.codes
        self.cache, self.streams = taken.cache, taken.streams
        self.rows, self.split = taken.rows, taken.split
        for part in self.split.parts.values() if self.split is not None else ():
            part.context.whole = self

    def repeat_to(self, rows: int, device: torch.device) -> None:
        """Repeat each row so that there are `rows`, in place: beams and several returned sequences
        of one prompt stand beside each other. Nothing happens where there are that many.

        Raises:
            RoutingError: the rows differ among each other, or do not divide `rows`.
        """
        strengths = self.strength.values() if isinstance(self.strength, Mapping) else None
        having = [self.prefix_mask_BT, self.side_BF, *self.sides.values(), *self.codes.values()]
        having += [s for s in (strengths or (self.strength,)) if isinstance(s, Tensor) and s.dim()]
        given = sorted({len(tensor) for tensor in [*having, self.rows] if tensor is not None})
        if given in ([], [rows]):
            return
        if len(given) > 1 or rows % given[0]:
            raise RoutingError(f"The routing has {given} rows, the batch {rows}.")
        repeats = rows // given[0]
        self.reorder(torch.arange(given[0], device=device).repeat_interleave(repeats))
