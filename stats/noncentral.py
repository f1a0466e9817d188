"""Noncentrality of a t distribution with a given tail, for power and effect-size intervals."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import gammaincinv, nctdtr, ndtr

FloatArray = npt.NDArray[np.float64]

_NODES = 256


def noncentrality(t: float, df: float, probability: float) -> float:
    """The noncentrality under which P(T <= t) = `probability`.

    Found by steps from `t`, where the distribution is well computed, and not by a wide bracket.
    """

    def excess(shift: float) -> float:
        return distribution(df, shift, t) - probability

    # P(T <= t) falls as the noncentrality grows.
    step = 1.0 if excess(t) > 0 else -1.0
    near, far = t, t + step * (1.0 + 0.1 * abs(t))
    while excess(far) * step > 0:
        near, far = far, far + 1.5 * (far - near)
    return float(brentq(excess, min(near, far), max(near, far), xtol=1e-10))


def distribution(df: float, shift: float, t: float) -> float:
    """P(T <= t) of the noncentral t.

    Far from `shift` scipy's function is NaN in double precision; there it is the expectation of
    Phi(t s - shift) over the estimated error's spread s.
    """
    found = float(nctdtr(df, shift, t))
    if math.isfinite(found):
        return found
    spread_Q, weight_Q = spreads(df)
    return float(np.sum(weight_Q * ndtr(t * spread_Q - shift)))


def spreads(df: float) -> tuple[FloatArray, FloatArray]:
    """Quadrature nodes of sqrt(chi^2(df) / df) and their weights."""
    nodes_Q, weight_Q = _legendre()
    # u^3 packs nodes where the estimate of the error is small and a test passes by luck.
    spread_Q = np.sqrt(2.0 * gammaincinv(df / 2.0, nodes_Q**3) / df)
    return spread_Q, weight_Q * 3.0 * nodes_Q**2


@cache
def _legendre() -> tuple[FloatArray, FloatArray]:
    """Gauss-Legendre nodes and weights on (0, 1)."""
    nodes_Q, weight_Q = np.polynomial.legendre.leggauss(_NODES)
    return (nodes_Q + 1.0) / 2.0, weight_Q / 2.0
