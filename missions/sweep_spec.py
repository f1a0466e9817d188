"""The `sweep:` section of a mission file: what is searched, on dev, before the arms are frozen.

Each swept arm searches its own settings with the same number of trials, the same rungs and the
same seeds. A path is `params.a.b`, a setting of the mission as this arm has it, or `arm.a`, a
setting of the arm's own `params`. Which paths exist is checked where the mission's code is known
(`missions.sweep_check`). Knows no mission.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_FIDELITY = ("params.", "examples.train", "examples.dev")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Choice(_Strict):
    """One of a few values."""

    kind: Literal["choice"]
    values: tuple[bool | int | float | str, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _differ(self) -> Choice:
        if len(set(map(repr, self.values))) != len(self.values):
            raise ValueError(f"values must differ, got {list(self.values)}")
        return self

    def holds(self, value: Any) -> bool:
        """Whether the value can come out of a draw."""
        return any(value == known and type(value) is type(known) for known in self.values)


class _Range(_Strict):
    low: float
    high: float

    @model_validator(mode="after")
    def _not_empty(self) -> _Range:
        if not self.low < self.high:
            raise ValueError(f"the range from {self.low:g} to {self.high:g} is empty")
        return self

    def holds(self, value: Any) -> bool:
        """Whether the value can come out of a draw."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high


class Uniform(_Range):
    """A real number, every one as likely."""

    kind: Literal["uniform"]


class LogUniform(_Range):
    """A positive real number, every order of magnitude as likely."""

    kind: Literal["loguniform"]

    @model_validator(mode="after")
    def _positive(self) -> LogUniform:
        if self.low <= 0:
            raise ValueError(f"low must be > 0 on a logarithmic scale, got {self.low:g}")
        return self


class IntRange(_Strict):
    """A whole number, both ends among them."""

    kind: Literal["int"]
    low: int
    high: int

    @model_validator(mode="after")
    def _not_empty(self) -> IntRange:
        if not self.low < self.high:
            raise ValueError(f"the range from {self.low} to {self.high} is empty")
        return self

    def holds(self, value: Any) -> bool:
        """Whether the value can come out of a draw."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and self.low <= value <= self.high


Domain = Annotated[Choice | Uniform | LogUniform | IntRange, Field(discriminator="kind")]
Space = dict[str, Domain]


class SweepConfig(_Strict):
    """What a mission searches before its arms are frozen."""

    metric: str
    """Metric of the mission's scores on dev; its mean over items and sweep seeds is compared."""
    mode: Literal["max", "min"] = "max"
    trials: int = Field(ge=2, le=10_000)
    """Settings tried for each arm, the mission file's own among them (always the first)."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """Training seeds of every trial; none of them may be a seed of the confirmation."""
    sampler_seed: int = Field(default=0, ge=0)
    """Seed of the search: the same one proposes the same first settings to every arm."""
    space: Space = Field(default_factory=dict)
    """Path -> range, searched by every arm under `arms`."""
    arms: dict[str, Space] = Field(min_length=1)
    """The arms that are swept, each with ranges of its own beside `space`."""
    follow: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Arm that is not swept -> swept arms whose chosen settings it takes over."""
    untuned: dict[str, str] = Field(default_factory=dict)
    """Treatment or control that keeps the file's settings -> why that is fair."""
    rungs: tuple[dict[str, Any], ...] = Field(default=({},), min_length=1)
    """Fidelities, cheapest first: path -> value, under `params.` or `examples.`. No trial is
    stopped before the first rung; the last one decides."""
    reduction: int = Field(default=2, ge=2)
    """One of this many trials of an arm goes on from a rung to the next."""
    concurrency: int = Field(default=1, ge=1)
    """Trials at once. What is found does not depend on it: each arm decides its rungs for itself,
    when all its trials are there."""
    expected_cpu_s: float = Field(default=0, ge=0)
    """Measured CPU seconds of the whole sweep; shown by --dry-run."""

    @model_validator(mode="after")
    def _consistent(self) -> SweepConfig:
        if any(seed < 0 for seed in self.seeds) or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be >= 0 and differ, got {list(self.seeds)}")
        for arm in self.arms:
            space = self.space_of(arm)
            if not space:
                raise ValueError(f"arms.{arm} searches nothing: give it a range, or `space`")
            for path in space:
                if not path.startswith(("params.", "arm.")) or not all(path.split(".")):
                    raise ValueError(f"{path!r}: expected params.a.b or arm.a")
                if any(path in rung for rung in self.rungs):
                    raise ValueError(f"{path!r} is searched and set by rungs; it can be one only")
        for number, rung in enumerate(self.rungs):
            for path in rung:
                if not path.startswith(_FIDELITY):
                    raise ValueError(
                        f"rungs[{number}] sets {path!r}; a rung may set params.*, examples.train "
                        "and examples.dev"
                    )
        if len({repr(rung) for rung in self.rungs}) != len(self.rungs):
            raise ValueError("rungs must differ")
        return self

    def space_of(self, arm: str) -> Space:
        """Everything that one arm searches, in order of path."""
        return dict(sorted({**self.space, **self.arms[arm]}.items()))

    def check_against(self, roles: Mapping[str, str], confirmation: Collection[int]) -> None:
        """Refuses unknown arms, arms that decide and are left untuned, and shared seeds.

        Args:
            roles: role of every arm of the mission.
            confirmation: seeds of the confirmation.

        Raises:
            ValueError: one line.
        """
        named = [(f"sweep.arms.{arm}", arm) for arm in self.arms]
        named += [(f"sweep.untuned.{arm}", arm) for arm in self.untuned]
        named += [(f"sweep.follow.{arm}", arm) for arm in self.follow]
        for where, arm in named:
            if arm not in roles:
                raise ValueError(f"{where} names arm {arm!r}; known arms: {sorted(roles)}")
        for arm, leaders in self.follow.items():
            strange = sorted(set(leaders) - set(self.arms))
            if strange or not leaders:
                raise ValueError(
                    f"sweep.follow.{arm} names {strange or 'no arm'}; swept are {sorted(self.arms)}"
                )
        times: dict[str, int] = {}
        for _, arm in named:
            times[arm] = times.get(arm, 0) + 1
        twice = sorted(arm for arm, count in times.items() if count > 1)
        if twice:
            raise ValueError(f"sweep: {twice} stand in more than one of arms, follow, untuned")
        for arm, role in roles.items():
            if role in ("treatment", "control") and arm not in times:
                raise ValueError(
                    f"sweep: {role} {arm!r} is not tuned while others are: put it under arms (the "
                    "same budget), follow, or untuned with the reason"
                )
        shared = sorted(set(self.seeds) & set(confirmation))
        if shared:
            raise ValueError(
                f"sweep.seeds and seeds share {shared}: settings would be chosen on seeds that "
                "confirm them"
            )
