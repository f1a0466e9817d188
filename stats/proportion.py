"""Score interval of one arm's rate: the modified Wilson interval of surveys.

A rate near 0 or 1 has a skewed estimate whose error grows with the rate, so m +- t SE is too short
on the side of 0.5 and leaves [0, 1]. A null p is instead tested with the variance that a rate of p
would have. With V the two-way variance of the estimate m, n = m (1 - m) / V the number of
independent values that would know m as well (the effective sample size), and t_q the quantile of
Student's t with the Satterthwaite degrees of freedom of V,

    t(p) = (m - p) / sqrt(p (1 - p) / n)
    limits = (m + t_q^2 / 2n  +-  t_q sqrt(m (1 - m) / n + t_q^2 / 4n^2)) / (1 + t_q^2 / n)

The limits solve |t(p)| = t_q, so the interval and the p-value decide alike, and they never leave
[0, 1]. The interval is Wilson's (1927) with the effective sample size of Kott and Carr (1997,
J. Official Statistics 13) and a t quantile, compared by Dean and Pagano (2015, J. Survey Statistics
and Methodology 3) and Franco, Little, Louis and Slud (2019, ibid. 7), who recommend it. There n
comes from clusters; here from seeds crossed with test items. n is not capped: capping it at
seeds x items changed no coverage by more than 0.4 points. Korn and Graubard's (1998) exact limits
with the same n miss as often on the far side and are wider on the near one.

Knows no grid and no gate.
"""

from __future__ import annotations

import math

from scipy.special import ndtri, stdtr, stdtrit

from stats.errors import DegenerateDataError
from stats.twoway import Side


def score_limits(
    estimate: float, standard_error: float, df: float, level: float = 0.95
) -> tuple[float, float]:
    """Two-sided interval of a rate, inside [0, 1]."""
    quantile = float(stdtrit(df, 0.5 + level / 2))
    share = quantile**2 / effective_size(estimate, standard_error)
    centre = estimate + share / 2
    half = math.sqrt((quantile * standard_error) ** 2 + share**2 / 4)
    return max((centre - half) / (1 + share), 0.0), min((centre + half) / (1 + share), 1.0)


def score_p_value(
    estimate: float, standard_error: float, df: float, null: float, side: Side
) -> float:
    """One-sided p-value of the rate lying above (greater) or below (less) `null`."""
    size = effective_size(estimate, standard_error)
    if not 0.0 < null < 1.0:
        # Both outcomes were seen, so the rate is neither 0 nor 1 and certainly lies between.
        return 0.0 if (null <= 0.0) == (side == "greater") else 1.0
    t = (estimate - null) / math.sqrt(null * (1.0 - null) / size)
    return float(stdtr(df, -t if side == "greater" else t))


def effective_size(estimate: float, standard_error: float) -> float:
    """Number of independent values whose rate would have this standard error."""
    if not 0.0 < estimate < 1.0 or standard_error <= 0.0:
        raise DegenerateDataError(
            f"A rate of {estimate!r} with standard error {standard_error!r} has no effective "
            "sample size; expected a rate between 0 and 1 that varies."
        )
    return estimate * (1.0 - estimate) / standard_error**2


def planning_factor(estimate: float, null: float, *, alpha: float, power: float) -> float:
    """What to multiply a variance at `estimate` by, to plan a score test of `null` as a t-test.

    The test's critical distance has the error of a rate of `null`, the estimate's scatter that of
    `estimate`: (z_alpha sd_null + z_power sd_estimate)^2 / (z_alpha + z_power)^2, in units of
    the latter.
    """
    ratio = max(null * (1.0 - null), 0.0) / (estimate * (1.0 - estimate))
    critical, reach = float(ndtri(1.0 - alpha)), float(ndtri(power))
    return ((critical * math.sqrt(ratio) + reach) / (critical + reach)) ** 2
