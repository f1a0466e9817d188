"""Finds the gate kinds of this folder and hands a configuration to the one that knows it."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

from pydantic import ValidationError

from stats.errors import DegenerateDataError, GateError, StatsError
from stats.gates.base import GateBase, GateContext, undecided
from stats.result import GateResult


class GateModule(Protocol):
    """What a file of this folder defines to be a gate kind."""

    CONFIG: type[GateBase]

    @staticmethod
    def evaluate(config: Any, context: GateContext) -> GateResult: ...


@cache
def gate_modules() -> Mapping[str, GateModule]:
    """Kind -> module, sorted by kind."""
    found: dict[str, GateModule] = {}
    for info in sorted(pkgutil.iter_modules([str(Path(__file__).parent)]), key=lambda i: i.name):
        module = importlib.import_module(f"stats.gates.{info.name}")
        if hasattr(module, "CONFIG"):
            found[module.CONFIG.kind_name()] = cast(GateModule, module)
    return found


def gate_kinds() -> tuple[str, ...]:
    """Names of all gate kinds."""
    return tuple(gate_modules())


def parse_gate(data: Mapping[str, Any]) -> GateBase:
    """Validates one gate from plain data.

    Raises:
        GateError: one line with the field, the value and what is known.
    """
    if not isinstance(data, Mapping):
        raise GateError(f"A gate is a mapping of settings, got {type(data).__name__} {data!r}.")
    kind = data.get("kind")
    where = f"Gate {data.get('id', '(without id)')!r}"
    modules = gate_modules()
    if not isinstance(kind, str) or kind not in modules:
        raise GateError(f"{where}: unknown kind {kind!r}. Known: {', '.join(modules)}.")
    config = modules[kind].CONFIG
    try:
        return config.model_validate({str(key): value for key, value in data.items()})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "(gate)"
        if first["type"] == "extra_forbidden":
            known = sorted(config.model_fields)
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            text = f"unknown field {name!r}.{hint} Known: {', '.join(known)}."
        else:
            text = f"{name}: {first['msg']} (got {first.get('input')!r})."
        raise GateError(f"{where} ({kind}): {text}") from None


def evaluate_gate(config: GateBase, context: GateContext) -> GateResult:
    """Evaluates one gate.

    Scores that cannot carry it give a result, not an exception: INCONCLUSIVE where there are
    too few seeds or examples, INVALID where cells are missing or do not fit the gate.
    """
    try:
        return gate_modules()[config.kind_name()].evaluate(config, context)
    except DegenerateDataError as error:
        return undecided(config, "INCONCLUSIVE", str(error), alpha=context.alpha)
    except StatsError as error:
        return undecided(config, "INVALID", str(error), alpha=context.alpha)
