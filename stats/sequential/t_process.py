"""Nominal levels of repeated t-tests over few seeds, exactly: the normal ones are too generous.

With x_1, x_2, ... independent normal under the margin, T_k the one-sample t of the first k, and

    R_k = sum x / sqrt(sum x^2),      T_k = R_k sqrt(k-1) / sqrt(k - R_k^2),

R is a Markov chain: the direction of (x_1..x_k) is independent of its length, so that

    R_{k+1} = (R_k + Y) / sqrt(1 + Y^2),      Y = x_{k+1} / sqrt(sum_{i<=k} x_i^2) ~ t_k / sqrt(k)

whatever came before. The paths that have not crossed are carried from seed to seed as masses on
cells of R, with exact transition probabilities out of each cell's middle (three digits). For
looks at 2, 3, 4 and 5 of 5 seeds and a two-sided 5 % the levels are .0019, .0097, .0203 and
.0324; the levels of normally distributed looks (.0019, .0107, .0242, .0391) would spend 5.8 %.

This is the case in which all variance lies between seeds. Variance between examples is the same
at every look (the examples do not change), which ties the looks together and spends less. Knows
nothing of scores or gates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import stdtr, stdtrit

from stats.errors import DegenerateDataError

FloatArray = npt.NDArray[np.float64]

_CELLS = 500


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Paths:
    """Paths over the first `count` seeds that have not crossed."""

    count: int
    middle_M: FloatArray
    """R in the middle of each cell."""
    mass_M: FloatArray

    def beyond(self, edge: float) -> FloatArray:
        """P(R > edge after one more seed), for each cell."""
        return 1.0 - _below(self.middle_M, np.array([edge]), self.count)[:, 0]

    def crossing(self, level: float) -> float:
        """Probability of not having crossed and of a one-sided p-value below `level` next."""
        return float(np.sum(self.mass_M * self.beyond(_ratio_at(level, self.count + 1))))

    def carried(self, level: float) -> _Paths:
        """One more seed; paths whose p-value falls below `level` are gone (0: none)."""
        count = self.count + 1
        top = _ratio_at(level, count) if level > 0 else math.sqrt(count)
        edges = _edges(count, top)
        mass_M = self.mass_M @ np.diff(_below(self.middle_M, edges, self.count), axis=1)
        return _Paths(count=count, middle_M=_middles(edges), mass_M=mass_M)


def t_levels(at_seeds: Sequence[int], spent: Callable[[float], float]) -> list[float]:
    """One-sided nominal p-value at each look.

    Args:
        at_seeds: numbers of complete seeds, increasing, at least 2; the last is the plan.
        spent: level spent up to a share of the seeds.
    """
    _check(at_seeds)
    planned = at_seeds[-1]
    levels: list[float] = []
    before = 0.0
    paths = _start()
    for count in range(2, planned + 1):
        level = 0.0
        if count in at_seeds:
            wanted = spent(count / planned) - before
            level = _level(paths, wanted)
            levels.append(level)
            before = spent(count / planned)
        if count < planned:
            paths = paths.carried(level)
    return levels


def overall_p(
    at_seeds: Sequence[int], levels: Sequence[float], look: int, nominal_p: float
) -> float:
    """One-sided p-value over all looks up to this one (stage-wise ordering).

    The probability, at the margin, of crossing at an earlier look or of a p-value as small as
    `nominal_p` at this one: uniform at the margin, as a p-value has to be.

    Args:
        look: index into `at_seeds` of the look at which the plan ended.
    """
    _check(at_seeds)
    if not 0 <= look < len(at_seeds) or len(levels) != len(at_seeds):
        raise DegenerateDataError(
            f"No look {look} among {len(at_seeds)} with {len(levels)} levels."
        )
    earlier = dict(zip(at_seeds[:look], levels[:look], strict=True))
    crossed = 0.0
    paths = _start()
    for count in range(2, at_seeds[look]):
        level = earlier.get(count, 0.0)
        if level:
            crossed += paths.crossing(level)
        paths = paths.carried(level)
    return min(1.0, crossed + paths.crossing(min(max(nominal_p, 1e-300), 1.0 - 1e-12)))


def _start() -> _Paths:
    """One seed: its R is its sign."""
    return _Paths(count=1, middle_M=np.array([-1.0, 1.0]), mass_M=np.array([0.5, 0.5]))


def _level(paths: _Paths, wanted: float) -> float:
    """The level that the paths cross next with the wanted probability."""
    found = brentq(
        lambda log_p: math.log(paths.crossing(math.exp(log_p)) / wanted),
        math.log(wanted) - 1.0,
        math.log(0.49),
        xtol=1e-10,
    )
    return float(math.exp(found))


def _ratio_at(level: float, count: int) -> float:
    """R_count whose one-sided p-value is `level`."""
    t = -float(stdtrit(count - 1, level))
    # For huge t, R^2 = k t^2 / (k - 1 + t^2) without overflow.
    return math.copysign(math.sqrt(count / (1.0 + (count - 1) / t**2)), t) if t else 0.0


def _below(from_M: FloatArray, edges_E: FloatArray, count: int) -> FloatArray:
    """P(R_{count+1} <= edge | R_count), shape M x E.

    g(Y) = (R + Y) / sqrt(1 + Y^2) goes from -1 far left to +1 far right, with one turn at Y = 1/R:
    a peak of sqrt(1 + R^2) for R > 0, a trough of minus that for R < 0. It meets the edge r where

        (1 - r^2) Y^2 + 2 R Y + R^2 - r^2 = 0   and   R + Y has the sign of r:

    once for |r| < 1; twice for a peak above r > 1 or a trough below r < -1; else nowhere.
    """
    # At exactly +-1 the equation is linear and the formula below is 0 / 0.
    edges_E = np.where(np.abs(np.abs(edges_E) - 1.0) < 1e-7, edges_E * (1.0 - 1e-7), edges_E)
    ratio_ME, edge_ME = np.broadcast_arrays(from_M[:, None], edges_E[None, :])
    gap_ME = 1.0 + ratio_ME**2 - edge_ME**2
    reach_ME = np.abs(edge_ME) * np.sqrt(np.maximum(gap_ME, 0.0))
    bend_ME = 1.0 - edge_ME**2
    scale = math.sqrt(count)
    minus_ME, plus_ME = (-ratio_ME - reach_ME) / bend_ME, (-ratio_ME + reach_ME) / bend_ME
    below_minus, below_plus = stdtr(count, minus_ME * scale), stdtr(count, plus_ME * scale)
    # With |r| < 1 the larger root has R + Y >= 0 and belongs to r >= 0.
    once_ME = np.where(edge_ME >= 0.0, below_plus, below_minus)
    between_ME = np.where(gap_ME > 0.0, np.abs(below_plus - below_minus), 0.0)
    above_ME = 1.0 - np.where(ratio_ME > 0.0, between_ME, 0.0)
    under_ME = np.where(ratio_ME < 0.0, between_ME, 0.0)
    found: FloatArray = np.where(
        np.abs(edge_ME) < 1.0, once_ME, np.where(edge_ME > 0.0, above_ME, under_ME)
    )
    return found


def _edges(count: int, top: float) -> FloatArray:
    """Cell edges from -sqrt(count) to `top`, dense at both ends."""
    bottom = -math.sqrt(count)
    share = (1.0 - np.cos(np.pi * np.linspace(0.0, 1.0, _CELLS + 1))) / 2.0
    edges: FloatArray = bottom + (top - bottom) * share
    return edges


def _middles(edges: FloatArray) -> FloatArray:
    return np.asarray((edges[1:] + edges[:-1]) / 2.0)


def _check(at_seeds: Sequence[int]) -> None:
    if (
        not at_seeds
        or at_seeds[0] < 2
        or any(later <= earlier for earlier, later in itertools.pairwise(at_seeds))
    ):
        raise DegenerateDataError(
            f"looks at {list(at_seeds)} seeds: expected increasing numbers from 2 on; one seed "
            "has no variance and cannot be tested."
        )
