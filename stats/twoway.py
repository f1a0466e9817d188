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

With 2 to 4 seeds df is at most (S - 1) / w, w = MS_s / (S N V), wherever MS_s > MS_e: a variance
of which the share w comes from S - 1 deviations is not known better than they are. Without it a
seed mean square that is small by chance makes V small and df large at once, and 95 % intervals
cover 92.1 % at worst with 3 seeds; with it 94.1 %. From 5 seeds on the plain rule covers 94.1 % or
more. Two seeds remain too few: 89.8 % at worst. (Normal effects, benchmarks/coverage_study.py.)

Units of unequal size (clusters of 3 and of 50 examples) have weights p_i that sum to 1, and the
mean over examples is the ratio estimator m = sum_i p_i m_i. Its variance is the linearised one,
the deviation of each unit weighted and corrected for having helped to place m. With q = sum p_i^2
(1/q is the effective number of units), a_i = p_i^2 / (1 - 2 p_i + q), and the same weighted means
inside the residuals r_si,

    U = sum_i a_i (m_i - m)^2,   R = sum_i a_i sum_s r_si^2 / (S (S-1)),
    T = sum_s (m_s - m)^2 / (S (S-1)),   V(m) = U + max(T - R, 0)

and N - 1 becomes the degrees of freedom that U has under equal variances (Bell and McCaffrey
2002; Satterthwaite): few large clusters carry the mean, so few degrees of freedom do. With equal
weights all of it is the table above.

Shapes: S seeds, N units (examples or clusters).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from stats.errors import DegenerateDataError, MagnitudeError

FloatArray = npt.NDArray[np.float64]
Side = Literal["greater", "less"]

ENOUGH_SEEDS = 5
"""From this many seeds on the degrees of freedom are Satterthwaite's as they stand."""

LARGEST = 1e70
SMALLEST = 1e-70
"""Bounds of what can be analysed: fourth powers must neither overflow nor vanish."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VarianceComponents:
    """Variance of one cell, split; estimates below zero are set to zero."""

    seed: float
    """Between seeds: what a new seed would change."""
    example: float
    """Between examples (or clusters): what a new test item would change."""
    residual: float
    """Seed x example interaction and noise within a cell."""

    def times(self, factor: float) -> VarianceComponents:
        return VarianceComponents(
            seed=factor * self.seed,
            example=factor * self.example,
            residual=factor * self.residual,
        )


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


def two_way(
    values_SN: FloatArray, weights_N: FloatArray | None = None, *, magnitude: float = 0.0
) -> TwoWay:
    """Analyses one complete grid.

    Args:
        weights_N: weight of each unit (its number of examples) in the mean; None: equal ones.
        magnitude: size of the numbers whose differences the values are: what differs by no more
            than their rounding errors does not vary.

    Raises:
        DegenerateDataError: fewer than two seeds or two units: the variance that a new seed or
            a new example brings cannot be known from one. Also NaN and infinite values.
        MagnitudeError: values too large or too small to be squared in double precision.
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
    _check_magnitude(values_SN)
    # Constant grids must come out as exactly zero variance, not as rounding noise.
    first = values_SN[0, 0]
    centred_SN = values_SN - first
    largest = max(float(np.abs(values_SN).max()), magnitude)
    if weights_N is None:
        squares = _equal_weights(centred_SN)
        seed_S = values_SN.mean(axis=1)
    else:
        share_N = _shares(weights_N, num_units)
        squares = _unequal_weights(centred_SN, share_N)
        seed_S = values_SN @ share_N
    # Squares of rounding errors are not variance.
    floor = (np.finfo(np.float64).eps * 8 * largest) ** 2
    ms_seed, ms_unit, ms_residual = (
        0.0 if square <= floor * max(num_seeds, num_units) else square
        for square in (squares.seed, squares.unit, squares.residual)
    )
    variance, df = variance_of_mean(
        ms_seed, ms_unit, ms_residual, num_seeds, num_units, unit_df=squares.unit_df
    )
    return TwoWay(
        estimate=float(first) + squares.mean,
        standard_error=math.sqrt(variance),
        df=df,
        num_seeds=num_seeds,
        num_units=num_units,
        components=VarianceComponents(
            seed=_excess(ms_seed, ms_residual) / num_units,
            example=_excess(ms_unit, ms_residual) / num_seeds,
            residual=ms_residual,
        ),
        seed_means=tuple(float(mean_s) for mean_s in seed_S),
    )


def _excess(square: float, residual: float) -> float:
    """What a mean square has beyond the residual; a difference of roundings is none."""
    excess = square - residual
    return excess if excess > 1e-12 * residual else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Squares:
    """Mean of centred values and mean squares, on the scale V = (unit + seed part) / (S N)."""

    mean: float
    seed: float
    unit: float
    residual: float
    unit_df: float


def _equal_weights(centred_SN: FloatArray) -> _Squares:
    num_seeds, num_units = centred_SN.shape
    dev_S = centred_SN.mean(axis=1)
    dev_N = centred_SN.mean(axis=0)
    mean = float(centred_SN.mean())
    residual_SN = centred_SN - dev_S[:, None] - dev_N[None, :] + mean
    return _Squares(
        mean=mean,
        seed=num_units * float(np.sum((dev_S - mean) ** 2)) / (num_seeds - 1),
        unit=num_seeds * float(np.sum((dev_N - mean) ** 2)) / (num_units - 1),
        residual=float(np.sum(residual_SN**2)) / ((num_seeds - 1) * (num_units - 1)),
        unit_df=num_units - 1,
    )


def _unequal_weights(centred_SN: FloatArray, share_N: FloatArray) -> _Squares:
    num_seeds, num_units = centred_SN.shape
    dev_S = centred_SN @ share_N
    dev_N = centred_SN.mean(axis=0)
    mean = float(dev_N @ share_N)
    residual_SN = centred_SN - dev_S[:, None] - dev_N[None, :] + mean
    concentration = float(share_N @ share_N)
    own_N = 1.0 - 2.0 * share_N + concentration
    factor_N = share_N**2 / own_N
    cells = num_seeds * num_units
    return _Squares(
        mean=mean,
        seed=num_units * float(np.sum((dev_S - mean) ** 2)) / (num_seeds - 1),
        unit=cells * float(np.sum(factor_N * (dev_N - mean) ** 2)),
        residual=num_units * float(np.sum(factor_N * residual_SN**2)) / (num_seeds - 1),
        unit_df=_unit_df(share_N, factor_N, own_N, concentration),
    )


def _unit_df(
    share_N: FloatArray, factor_N: FloatArray, own_N: FloatArray, concentration: float
) -> float:
    """Satterthwaite df of sum_i a_i (m_i - m)^2 for units of equal variance.

    The deviations have covariance G_ij = [i = j] - p_i - p_j + q, and df = (sum_i a_i G_ii)^2 /
    sum_ij a_i a_j G_ij^2; the double sum is expanded, so it costs O(N).
    """
    total = float(factor_N.sum())
    first, second = float(factor_N @ share_N), float(factor_N @ share_N**2)
    double = concentration**2 * total**2 + 2.0 * total * second + 2.0 * first**2
    double -= 4.0 * concentration * total * first
    diagonal = factor_N**2 * (own_N**2 - (own_N - 1.0) ** 2)
    return float(factor_N @ own_N) ** 2 / (double + float(diagonal.sum()))


def _shares(weights_N: FloatArray, num_units: int) -> FloatArray:
    weights_N = np.asarray(weights_N, dtype=np.float64)
    if weights_N.shape != (num_units,):
        raise DegenerateDataError(f"{weights_N.shape} weights for {num_units} units.")
    if not (np.isfinite(weights_N).all() and bool((weights_N > 0).all())):
        raise DegenerateDataError("weights_N: expected finite weights above 0.")
    shares_N: FloatArray = weights_N / weights_N.sum()
    return shares_N


def _check_magnitude(values_SN: FloatArray) -> None:
    if not np.isfinite(values_SN).all():
        raise DegenerateDataError("The grid holds NaN or infinite values.")
    low, high = float(values_SN.min()), float(values_SN.max())
    largest = max(abs(low), abs(high))
    if largest > LARGEST or 0.0 < high / 2 - low / 2 < SMALLEST / 2:
        raise MagnitudeError(
            f"Values between {low!r} and {high!r}: their squares leave double precision, which "
            f"needs absolute values below {LARGEST:g} and a range of 0 or above {SMALLEST:g}. "
            "Give the metric another unit."
        )


def variance_of_mean(
    ms_seed: float,
    ms_unit: float,
    ms_residual: float,
    num_seeds: int,
    num_units: int,
    *,
    unit_df: float | None = None,
) -> tuple[float, float]:
    """Variance of the overall mean and its Satterthwaite degrees of freedom.

    Args:
        unit_df: degrees of freedom of the units' mean square; None: N - 1.
    """
    top = ms_unit + max(ms_seed - ms_residual, 0.0)
    units = num_units - 1 if unit_df is None else unit_df
    bottom = (
        ms_seed**2 / (num_seeds - 1)
        + ms_unit**2 / units
        + ms_residual**2 / ((num_seeds - 1) * units)
    )
    df = max(top**2 / bottom, 1.0) if bottom > 0 else 1.0
    if num_seeds < ENOUGH_SEEDS and ms_seed > ms_residual:
        df = max(min(df, (num_seeds - 1) * top / ms_seed), 1.0)
    return top / (num_seeds * num_units), df


def exact_bound(num_units: int, level: float = 0.95) -> float:
    """Upper bound of a rate of which 0 of `num_units` independent units showed a case.

    The two-sided Clopper-Pearson limit 1 - (alpha/2)^(1/N), alpha = 1 - level: 0.37 % for 0 of
    1,000 at 95 %. N counts units, not seeds x units: seeds share the test items.
    """
    if num_units < 1:
        raise DegenerateDataError(f"num_units must be at least 1, got {num_units}.")
    return float(1.0 - ((1.0 - level) / 2.0) ** (1.0 / num_units))
