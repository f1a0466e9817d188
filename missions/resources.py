"""What one worker of a mission asks for: amounts, places, and how the group shares the work.

Knows no cluster: whether a request can be met is the fleet's to say.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

STRATEGIES = ("packed", "ddp", "fsdp")
Strategy = Literal["packed", "ddp", "fsdp"]
MAX_SHARE = 100
"""A GPU is cut into this many shares at most."""
_TOLERANCE = 1e-4
"""Ray counts resources in ten-thousandths: 0.3333 is its 1/3."""
_OWN_NAMES = frozenset({"CPU", "GPU", "TPU", "memory", "object_store_memory"})
_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_.-]{0,62}$")
_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = re.compile(rf"^(?:{_WORD}(?:\.{_WORD})*/)?{_WORD}$")
_LABEL_VALUE = re.compile(rf"^!?(?:{_WORD}|in\({_WORD}(?:, ?{_WORD})*\))$")


class ResourcesConfig(BaseModel):
    """What one worker of the mission asks for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workers: int = Field(default=1, ge=1)
    cpus: float = Field(default=1, gt=0)
    gpus: float = Field(default=0, ge=0)
    """Whole GPUs, or 1/k of one (`1/4` or 0.25): k workers share it."""
    memory_mib: int = Field(default=2048, ge=128)
    expected_cpu_s: float = Field(default=0, ge=0)
    """Measured CPU seconds of the whole mission on the laptop profile; shown by --dry-run."""
    custom: dict[str, float] = Field(default_factory=dict)
    """Custom resources of the cluster: name -> amount."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Node labels that a worker's node must have: `v`, `!v`, `in(v, w)` or `!in(v, w)`."""
    strategy: Strategy = "packed"
    """`packed`: each worker trains whole packs of runs. `ddp`, `fsdp`: all workers train one."""

    @field_validator("gpus", mode="before")
    @classmethod
    def _fraction(cls, value: Any) -> Any:
        """`1/4` as people write it."""
        if isinstance(value, str):
            above, slash, below = value.partition("/")
            if slash and above.strip() == "1" and below.strip().isdigit() and int(below):
                return 1 / int(below)
        return value

    @field_validator("gpus")
    @classmethod
    def _one_over_k(cls, value: float) -> float:
        return whole_or_share(value)

    @field_validator("custom")
    @classmethod
    def _custom_names(cls, value: dict[str, float]) -> dict[str, float]:
        for name, amount in value.items():
            if name in _OWN_NAMES:
                raise ValueError(
                    f"custom resource {name!r} has a field of its own; use cpus, gpus or memory_mib"
                )
            if not _NAME.match(name):
                raise ValueError(
                    f"custom resource {name!r}: expected a letter, then letters, digits, '_', "
                    "'.' or '-', 63 at most"
                )
            if not 0 < amount < float("inf"):
                raise ValueError(f"custom resource {name!r} is {amount:g}; expected a number > 0")
        return value

    @field_validator("labels")
    @classmethod
    def _label_syntax(cls, value: dict[str, str]) -> dict[str, str]:
        for key, wanted in value.items():
            if not _LABEL_KEY.match(key):
                raise ValueError(
                    f"label {key!r}: expected name or prefix/name of letters, digits, '_', '.', '-'"
                )
            if not _LABEL_VALUE.match(wanted):
                raise ValueError(
                    f"label {key!r} asks for {wanted!r}; allowed: value, !value, "
                    "in(value, value), !in(value, value)"
                )
        return value

    @model_validator(mode="after")
    def _strategy_has_workers(self) -> ResourcesConfig:
        if self.strategy != "packed" and self.workers < 2:
            raise ValueError(
                f"strategy {self.strategy!r} shares one run among workers and needs workers >= 2, "
                f"got {self.workers}; with one worker use 'packed'"
            )
        return self


def whole_or_share(gpus: float) -> float:
    """The number of GPUs, 0.3333 read as 1/3.

    Raises:
        ValueError: neither whole nor 1/k; names the nearest that is.
    """
    if abs(gpus - round(gpus)) < _TOLERANCE and round(gpus) >= 1:
        return float(round(gpus))
    if gpus == 0:
        return 0.0
    if gpus > 1:
        raise ValueError(
            f"{gpus:g} GPUs: more than one must be whole; nearest: {int(gpus)} or {int(gpus) + 1}"
        )
    k = min(MAX_SHARE, max(1, round(1 / gpus)))
    if abs(gpus - 1 / k) >= _TOLERANCE:
        raise ValueError(
            f"{gpus:g} GPU is not 1/k of one (k = 1 to {MAX_SHARE}), and k workers could not share "
            f"a GPU evenly; nearest: 1/{k}"
        )
    return 1 / k
