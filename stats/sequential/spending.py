"""Alpha spending (Lan and DeMets 1983): how much of the level is used up to each look.

The O'Brien-Fleming-type function spends, of a one-sided level alpha, up to the information t

    f(t) = 1 - Phi(z_{1-alpha} / sqrt(t)),        f(1) = alpha,

which is 2 - 2 Phi(z_{1-a/2} / sqrt(t)) of a two-sided level a = 2 alpha, half on each side. (Most
programs apply the formula to each side's alpha instead, with z_{1-alpha/2} and a factor of 2. That
spends less early.) Knows no seeds and no looks: what a look may use of the t of few seeds follows
in `stats.sequential.t_process`.
"""

from __future__ import annotations

import math

from scipy.special import ndtr, ndtri

from stats.errors import DegenerateDataError


def obrien_fleming(information: float, alpha: float) -> float:
    """One-sided level spent up to a share of the information in (0, 1]."""
    if not 0.0 < information <= 1.0:
        raise DegenerateDataError(f"information must lie in (0, 1], got {information}.")
    if not 0.0 < alpha < 0.5:
        raise DegenerateDataError(f"alpha must lie in (0, 0.5), got {alpha}.")
    return float(ndtr(ndtri(alpha) / math.sqrt(information)))
