"""A PID-controlled Lagrange multiplier for training under one constraint (arXiv 2007.03964).

It knows neither losses nor models: it sees one number a step, the constraint's violation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True, slots=True)
class PidMultiplier:
    """lambda = max(0, Kp e + Ki sum(e) + Kd max(0, e - e_before)), e smoothed; the sum is >= 0.

    Plain dual ascent is Kp = Kd = 0.
    """

    kp: float = 1.0
    ki: float = 0.1
    kd: float = 0.0
    smoothing: float = 0.8
    """Weight of the past in the running mean of the violation."""
    largest: float = 100.0
    """Bound of the multiplier and of the integral's part."""
    value: float = field(default=0.0)
    """The multiplier now."""
    _integral: float = field(default=0.0)
    _mean: float | None = field(default=None)

    def update(self, violation: float) -> float:
        """Takes `cost - limit` of this step and returns the multiplier for the next."""
        before = self._mean
        mean = (
            violation
            if before is None
            else (self.smoothing * before + (1 - self.smoothing) * violation)
        )
        self._mean = mean
        ceiling = self.largest / self.ki if self.ki > 0 else 0.0
        self._integral = min(max(0.0, self._integral + mean), ceiling)
        rise = 0.0 if before is None else max(0.0, mean - before)
        raw = self.kp * mean + self.ki * self._integral + self.kd * rise
        self.value = min(max(0.0, raw), self.largest)
        return self.value

    def state_dict(self) -> dict[str, Any]:
        """Where the controller stands, for a training's checkpoint."""
        return {"value": self.value, "integral": self._integral, "mean": self._mean}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Takes it back."""
        self.value = state_dict["value"]
        self._integral = state_dict["integral"]
        self._mean = state_dict["mean"]
