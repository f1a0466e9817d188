"""What a caller gives, by row: texts, hints, modes, strengths. It knows no model.

Legend: B rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from bem.context import Strength
from bem.errors import InvalidInputError
from bem.injection import AdapterHost

Hints = str | Sequence[str] | None
"""The hints of one input: none, one, or several."""
GivenStrength = float | Sequence[float] | Mapping[str, float | Sequence[float]]
"""One for all inputs, one for each, or either by adapter name (missing: 1)."""


def as_texts(inputs: str | Sequence[str]) -> tuple[list[str], bool]:
    """The inputs as a list, and whether there was a single one."""
    single = isinstance(inputs, str)
    texts = [inputs] if isinstance(inputs, str) else list(inputs)
    if not texts:
        raise InvalidInputError("inputs is empty: give a prompt or a list of prompts.")
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise InvalidInputError(f"inputs holds {wrong[0]!r}; each is a text.")
    return texts, single


def hints_by_row(
    given: Hints | Sequence[Hints], rows: int, *, single: bool
) -> list[tuple[str, ...]]:
    """The hints of each row.

    Args:
        given: for a single input its hints. For a list of inputs one hint that all of them have,
            or a sequence with the hints of each.
        single: whether the input is a single one.
    """
    if given is None or isinstance(given, str):
        return [_several(given)] * rows
    if single:
        return [_several([*given])]  # type: ignore[list-item]
    if len(given) != rows:
        raise InvalidInputError(
            f"context_hints has {len(given)} entries for {rows} inputs: give the hints of each, "
            "or one hint for all."
        )
    return [_several(hints) for hints in given]


def modes_by_row(given: str | Sequence[str | None] | None, rows: int) -> list[str | None]:
    """The mode of each row: one for all, or a sequence with the mode of each."""
    if given is None or isinstance(given, str):
        return [given] * rows
    if len(given) != rows:
        raise InvalidInputError(f"behavioral_mode has {len(given)} entries for {rows} inputs.")
    return list(given)


def _several(hints: Hints) -> tuple[str, ...]:
    names = () if hints is None else (hints,) if isinstance(hints, str) else tuple(hints)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise InvalidInputError(f"A hint is a name, got {wrong[0]!r}.")
    return names


def strengths(given: GivenStrength, rows: int, host: AdapterHost) -> Strength | dict[str, Strength]:
    """Strengths as a `RoutingContext` has them: numbers, or tensors (B,).

    Raises:
        InvalidInputError: one is not finite, there are not as many as rows, or an adapter is
            unknown.
    """
    if isinstance(given, Mapping):
        for name in given:
            host[name]
        return {name: _strength(value, rows, host) for name, value in given.items()}
    return _strength(given, rows, host)


def _strength(given: float | Sequence[float], rows: int, host: AdapterHost) -> Strength:
    values = [given] if isinstance(given, int | float) else list(given)
    if any(not math.isfinite(value) for value in values):
        raise InvalidInputError(f"adaptation_strength is {given}; give finite numbers.")
    if isinstance(given, int | float):
        return float(given)
    if len(values) != rows:
        raise InvalidInputError(f"adaptation_strength has {len(values)} entries for {rows} inputs.")
    if not any(values):
        return 0.0
    return torch.tensor(values, device=host.base.device)
