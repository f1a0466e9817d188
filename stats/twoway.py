"""Two-way (seeds x examples) analysis of a mean: variance components and a Satterthwaite t.

The claim is about the method, so both seeds and examples are random. With D[s, i] the value of
seed s on example i (a paired difference, a linear contrast, or one arm's score) and means per
seed m_s, per example m_i and overall m:

    MS_s = N sum_s (m_s - m)^2 / (S - 1)          E = sigma_e^2 + N sigma_s^2
    MS_i = S sum_i (m_i - m)^2 / (N - 1)          E = sigma_e^2 + S sigma_i^2
    MS_e = residual mean square                   E = sigma_e^2
    V(m) = (MS_i + max(MS_s - MS_e, 0)) / (S N)
    df   = (MS_i + max(MS_s - MS_e, 0))^2
           / (MS_s^2/(S-1) + MS_i^2/(N-1) + MS_e^2/((S-1)(N-1))),  at least 1

(Satterthwaite 1946; the crossed random-effects model of Owen 2007, arXiv 0712.1111.) Where the
seed component is positive the standard error equals that of the REML mixed model with crossed
random effects, in closed form. Knows nothing of scores, gates or bootstraps.

Shapes: S seeds, N units (examples or clusters).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from stats.errors import DegenerateDataError

FloatArray = npt.NDArray[np.float64]
Side = Literal["greater", "less"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VarianceComponents:
    """Variance of one cell, split; estimates below zero are set to zero."""

    seed: float
    """Between seeds: what a new seed would change."""
    example: float
    """Between examples (or clusters): what a new test item would change."""
    residual: float
    """Seed x example interaction and noise within a cell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoWay:
    """Mean of a grid with the standard error that covers new seeds and new examples."""

    estimate: float
    standard_error: float
    """0 where nothing varies; such a result carries no interval (see `exact_bound`)."""
    df: float
    num_seeds: int
    num_units: int
    components: VarianceComponents
    seed_means: tuple[float, ...]

    @property
    def degenerate(self) -> bool:
        """True where nothing varies, so that no interval can be had from the variance."""
        return self.standard_error == 0.0

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided interval of the mean.

        Raises:
            DegenerateDataError: where nothing varies: a zero-width interval is never given.
        """
        if self.degenerate:
            raise DegenerateDataError(
                f"All {self.num_seeds} x {self.num_units} values give the same mean "
                f"{self.estimate!r} per seed and example: the variance is zero and gives no "
                "interval."
            )
        half = float(stdtrit(self.df, 0.5 + level / 2)) * self.standard_error
        return self.estimate - half, self.estimate + half

    def p_value(self, null: float, side: Side) -> float:
        """One-sided p-value of the mean lying above (greater) or below (less) `null`."""
        if self.degenerate:
            raise DegenerateDataError("The variance is zero: a t-test has no p-value here.")
        t = (self.estimate - null) / self.standard_error
        return float(stdtr(self.df, -t if side == "greater" else t))


def two_way(values_SN: FloatArray) -> TwoWay:
    """Analyses one complete grid.

    Raises:
        DegenerateDataError: fewer than two seeds or two units: the variance that a new seed or
            a new example brings cannot be known from one.
    """
    values_SN = np.asarray(values_SN, dtype=np.float64)
    if values_SN.ndim != 2:
        raise DegenerateDataError(f"Expected seeds x examples, got shape {values_SN.shape}.")
    num_seeds, num_units = values_SN.shape
    if num_seeds < 2 or num_units < 2:
        raise DegenerateDataError(
            f"{num_seeds} seeds x {num_units} examples: at least 2 x 2 are needed to know what a "
            "new seed or a new example would change."
        )
    if not np.isfinite(values_SN).all():
        raise DegenerateDataError("The grid holds NaN or infinite values.")
    seed_S = values_SN.mean(axis=1)
    # Constant grids must come out as exactly zero variance, not as rounding noise.
    first = values_SN[0, 0]
    centred_SN = values_SN - first
    dev_S = centred_SN.mean(axis=1)
    dev_N = centred_SN.mean(axis=0)
    mean = float(centred_SN.mean())
    ms_seed = num_units * float(np.sum((dev_S - mean) ** 2)) / (num_seeds - 1)
    ms_unit = num_seeds * float(np.sum((dev_N - mean) ** 2)) / (num_units - 1)
    residual_SN = centred_SN - dev_S[:, None] - dev_N[None, :] + mean
    ms_residual = float(np.sum(residual_SN**2)) / ((num_seeds - 1) * (num_units - 1))
    # Squares of rounding errors are not variance.
    floor = (np.finfo(np.float64).eps * 8 * float(np.abs(values_SN).max())) ** 2
    ms_seed, ms_unit, ms_residual = (
        0.0 if square <= floor * max(num_seeds, num_units) else square
        for square in (ms_seed, ms_unit, ms_residual)
    )
    variance, df = variance_of_mean(ms_seed, ms_unit, ms_residual, num_seeds, num_units)
    return TwoWay(
        estimate=float(first) + mean,
        standard_error=math.sqrt(variance),
        df=df,
        num_seeds=num_seeds,
        num_units=num_units,
        components=VarianceComponents(
            seed=max(ms_seed - ms_residual, 0.0) / num_units,
            example=max(ms_unit - ms_residual, 0.0) / num_seeds,
            residual=ms_residual,
        ),
        seed_means=tuple(float(mean_s) for mean_s in seed_S),
    )


def variance_of_mean(
    ms_seed: float, ms_unit: float, ms_residual: float, num_seeds: int, num_units: int
) -> tuple[float, float]:
    """Variance of the overall mean and its Satterthwaite degrees of freedom."""
    top = ms_unit + max(ms_seed - ms_residual, 0.0)
    bottom = (
        ms_seed**2 / (num_seeds - 1)
        + ms_unit**2 / (num_units - 1)
        + ms_residual**2 / ((num_seeds - 1) * (num_units - 1))
    )
    df = max(top**2 / bottom, 1.0) if bottom > 0 else 1.0
    return top / (num_seeds * num_units), df


def exact_bound(num_units: int, level: float = 0.95) -> float:
    """Upper bound of a rate of which 0 of `num_units` independent units showed a case.

    The two-sided Clopper-Pearson limit 1 - (alpha/2)^(1/N), alpha = 1 - level: 0.37 % for 0 of
    1,000 at 95 %. N counts units, not seeds x units: seeds share the test items.
    """
    if num_units < 1:
        raise DegenerateDataError(f"num_units must be at least 1, got {num_units}.")
    return float(1.0 - ((1.0 - level) / 2.0) ** (1.0 / num_units))
