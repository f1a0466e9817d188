"""Log-rank test of right-censored times: scores, statistic, median. Knows no gates and no tables.

Mantel 1966; the scores are those of the permutation form (Prentice 1978).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import ndtr

from stats.scores import FloatArray

EventArray = np.ndarray[Any, Any]


def logrank_scores(time_n: FloatArray, event_n: EventArray) -> FloatArray:
    """event - H(time) with the Nelson-Aalen cumulative hazard H of the whole sample.

    Their sum over one group is observed minus expected events, the log-rank numerator.
    """
    at_n, deaths_k, at_risk_k = _life_table(time_n, event_n)
    hazard_k = np.cumsum(deaths_k / at_risk_k)
    scores_n: FloatArray = np.asarray(event_n, dtype=np.float64) - hazard_k[at_n]
    return scores_n


def logrank(time_2SN: FloatArray, event_2SN: EventArray) -> tuple[float, float]:
    """z of the log-rank test (positive: the first group has events sooner) and two-sided p.

    Takes every observation as independent, which seeds on the same items are not.
    """
    first = time_2SN[0].size
    time_n, event_n = time_2SN.ravel(), event_2SN.ravel()
    at_n, deaths_k, at_risk_k = _life_table(time_n, event_n)
    own = np.bincount(at_n[:first], minlength=len(deaths_k))
    own_risk_k = np.cumsum(own[::-1])[::-1]
    expected = float(np.sum(deaths_k * own_risk_k / at_risk_k))
    share_k = own_risk_k / at_risk_k
    rest_k = np.where(at_risk_k > 1, (at_risk_k - deaths_k) / np.maximum(at_risk_k - 1, 1), 0.0)
    variance = float(np.sum(deaths_k * share_k * (1 - share_k) * rest_k))
    if variance == 0.0:
        return 0.0, 1.0
    z = (float(event_n[:first].sum()) - expected) / math.sqrt(variance)
    return z, 2.0 * float(ndtr(-abs(z)))


def kaplan_meier_median(time_n: FloatArray, event_n: EventArray) -> float | None:
    """Time at which half had the event; None where it was not reached."""
    _, deaths_k, at_risk_k = _life_table(time_n, event_n)
    survival_k = np.cumprod(1.0 - deaths_k / at_risk_k)
    reached = np.flatnonzero(survival_k <= 0.5)
    return float(np.unique(time_n)[reached[0]]) if len(reached) else None


def _life_table(
    time_n: FloatArray, event_n: EventArray
) -> tuple[EventArray, FloatArray, FloatArray]:
    """Index of each distinct time, events there, and how many were at risk just before."""
    _, at_n, counts_k = np.unique(time_n, return_inverse=True, return_counts=True)
    deaths_k: FloatArray = np.bincount(at_n, weights=event_n.astype(np.float64)).astype(np.float64)
    at_risk_k = np.cumsum(counts_k[::-1])[::-1].astype(np.float64)
    return at_n, deaths_k, at_risk_k


def restricted_mean_values(
    time_n: FloatArray, event_n: EventArray, horizon: float
) -> tuple[float, FloatArray]:
    """Restricted mean time up to `horizon` (area under Kaplan-Meier), and one value a subject.

    The values are the restricted mean plus each subject's influence on it (the first-order
    pseudo-observations of Andersen, Hansen and Klein 2004): their mean is the restricted mean, and
    they stand in for times that censoring before the horizon hides.
    """
    time_n = np.minimum(time_n, horizon)
    at_n, deaths_k, at_risk_k = _life_table(time_n, event_n)
    time_k = np.unique(time_n)
    survival_k = np.cumprod(1.0 - deaths_k / at_risk_k)
    widths_k = np.diff(np.append(time_k, max(horizon, float(time_k[-1]))))
    pieces_k = survival_k * widths_k
    ahead_k = np.cumsum(pieces_k[::-1])[::-1]
    mean = float(time_k[0] + pieces_k.sum())
    num = len(time_n)
    jump_k = ahead_k * num / at_risk_k
    drift_k = np.cumsum(jump_k * deaths_k / at_risk_k)
    values_n: FloatArray = mean - np.where(event_n, jump_k[at_n], 0.0) + drift_k[at_n]
    return mean, values_n
