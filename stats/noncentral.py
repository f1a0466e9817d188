"""Noncentrality of a t distribution with a given tail, for power and effect-size intervals."""

from __future__ import annotations

from scipy.optimize import brentq
from scipy.special import nctdtr


def noncentrality(t: float, df: float, probability: float) -> float:
    """The noncentrality under which P(T <= t) = `probability`.

    Found by steps from `t`, where the distribution is well computed, and not by a wide bracket:
    far from `t` the distribution function is NaN in double precision.
    """

    def excess(shift: float) -> float:
        return float(nctdtr(df, shift, t)) - probability

    # P(T <= t) falls as the noncentrality grows.
    step = 1.0 if excess(t) > 0 else -1.0
    near, far = t, t + step * (1.0 + 0.1 * abs(t))
    while excess(far) * step > 0:
        near, far = far, far + 1.5 * (far - near)
    return float(brentq(excess, min(near, far), max(near, far), xtol=1e-10))
