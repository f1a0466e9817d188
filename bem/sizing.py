"""Sizes that match: the config of an adapter with a given number of trainable parameters.

Parity between arms is +-5 % by default. It builds nothing: it uses each adapter's formula.
"""

from __future__ import annotations

from typing import TypeVar

from bem.base import BaseModel
from bem.errors import InvalidInputError
from bem.interfaces import AdapterConfig
from bem.registry import adapter_class

C = TypeVar("C", bound=AdapterConfig)


def count_parameters(config: AdapterConfig, base: BaseModel) -> int:
    """Trainable parameters that `config` has on `base`."""
    sites = base.sites(config.targets)
    return adapter_class(config.kind).count_parameters(config, sites, base.hidden_size)


def match_rank(config: C, target_parameters: int, base: BaseModel, *, tolerance: float = 0.05) -> C:
    """`config` with the rank, and only where that does not do the controller width, that brings
    it nearest to `target_parameters`. alpha / rank, the scale of the delta, is kept.

    Raises:
        InvalidInputError: nothing lies within `tolerance`, a fraction of the target.
    """
    fields = type(config).model_fields
    candidates: list[C] = []
    if "rank" in fields:
        candidates += _scan(config, "rank", target_parameters, base)
    best = _nearest(candidates or [config], target_parameters, base)
    if _miss(best, target_parameters, base) > tolerance and "controller_width" in fields:
        for start in candidates or [config]:
            candidates = [*candidates, *_scan(start, "controller_width", target_parameters, base)]
        best = _nearest(candidates, target_parameters, base)
    if _miss(best, target_parameters, base) > tolerance:
        raise InvalidInputError(
            f"Adapter '{config.kind}' cannot come within {tolerance:.0%} of {target_parameters} "
            f"parameters; nearest: {count_parameters(best, base)} with {best!r}."
        )
    return best


def _scan(config: C, field: str, target: int, base: BaseModel) -> list[C]:
    """The last config below the target and the first one at or above it."""
    low, high = 1, 2
    while count_parameters(_resized(config, field, high), base) < target and high < 2**20:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if count_parameters(_resized(config, field, middle), base) < target:
            low = middle
        else:
            high = middle
    return [_resized(config, field, low), _resized(config, field, high)]


def _resized(config: C, field: str, size: int) -> C:
    update: dict[str, float] = {field: size}
    if field == "rank" and "alpha" in type(config).model_fields:
        values = config.model_dump()
        update["alpha"] = values["alpha"] * size / values["rank"]
    return config.model_copy(update=update)


def _miss(config: AdapterConfig, target: int, base: BaseModel) -> float:
    return abs(count_parameters(config, base) - target) / target


def _nearest(candidates: list[C], target: int, base: BaseModel) -> C:
    return min(candidates, key=lambda c: _miss(c, target, base))
