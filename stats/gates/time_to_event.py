"""Time to event: the treatment reaches the event sooner, with right-censored times.

The metric `<m>` holds min(time, horizon), `<m>_event` is 1 where the event happened. The test is
a log-rank test that keeps the pairing and covers new seeds and new examples: each observation
gets its log-rank score event - H(time), H the Nelson-Aalen estimate of both arms together, and
the paired differences of scores go through the two-way t (the permutation form of the log-rank,
Prentice 1978). The usual log-rank p-value, which takes all observations as independent, stands
beside it. The estimate is the difference of restricted mean times, control minus treatment.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy.special import ndtr

from stats.errors import GateError
from stats.gates.base import GateContext, TwoArmGate, is_binary
from stats.gates.measured import ZERO_VARIATION, measured
from stats.gates.wording import population, show_interval
from stats.inference import infer_mean
from stats.result import Decision, GateResult, Interval
from stats.scores import FloatArray


class TimeToEvent(TwoArmGate):
    """Passes when the log-rank test and the restricted mean difference both show it."""

    kind: Literal["time_to_event"]
    min_point: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Least gain of the point estimate, in the metric's unit of time."""
    min_lower: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """The lower bound of the gain must lie above this."""


CONFIG = TimeToEvent


def evaluate(config: TimeToEvent, context: GateContext) -> GateResult:
    """Two-way log-rank and the two-way t of the restricted mean difference."""
    times = context.paired(config.metric, config.treatment, config.versus)
    events = context.paired(f"{config.metric}_event", config.treatment, config.versus)
    _check(config, times.clustered, (events.treatment_SN, events.control_SN))
    if times.unit_ids != events.unit_ids:
        raise GateError(f"Gate {config.id!r}: times and events have different examples.")
    values_SN = times.control_SN - times.treatment_SN
    inference = infer_mean(values_SN, context.resampler, level=context.level)
    time_2SN = np.stack([times.treatment_SN, times.control_SN])
    event_2SN = np.stack([events.treatment_SN, events.control_SN]) == 1.0
    if not bool(event_2SN.any()):
        raise GateError(f"Gate {config.id!r}: no events in either arm; nothing can be compared.")
    scores_2SN = logrank_scores(time_2SN.ravel(), event_2SN.ravel()).reshape(time_2SN.shape)
    ranked = infer_mean(scores_2SN[0] - scores_2SN[1], context.resampler, level=context.level)
    rank_p = ranked.p_value(0.0, "greater")
    gain_p = inference.p_value(config.min_lower, "greater")
    statistic, plain_p = logrank(time_2SN, event_2SN)
    censored_early = bool((time_2SN[~event_2SN] < time_2SN.max()).any())
    decision, reason = _decide(config, inference.estimate, inference.interval, rank_p, context)
    details: dict[str, Any] = {
        "two_way_logrank_p": rank_p,
        "plain_logrank_z": statistic,
        "plain_logrank_p": plain_p,
        "event_share": [float(event_2SN[0].mean()), float(event_2SN[1].mean())],
        "median_time": [
            kaplan_meier_median(time_2SN[arm].ravel(), event_2SN[arm].ravel()) for arm in (0, 1)
        ],
        "censored_before_horizon": censored_early,
    }
    return measured(
        config,
        context,
        times,
        inference,
        decision=decision,
        reason=f"sooner by {show_interval(inference, 'raw')}: {reason}",
        estimand=(
            f"restricted mean {config.metric} (up to {float(time_2SN.max()):g}), {config.versus} "
            f"minus {config.treatment}, {population(values_SN.shape, times.clustered)}"
        ),
        criterion=(
            f"two-way log-rank p < {context.alpha:g}, gain's lower bound > {config.min_lower:g} "
            f"and point >= {config.min_point:g}"
        ),
        scale="raw",
        passing_side="above",
        margins=tuple(dict.fromkeys((config.min_lower, config.min_point))),
        p_value=None if rank_p is None or gain_p is None else max(rank_p, gain_p),
        assumed=(
            config.min_point if config.min_point > config.min_lower else inference.estimate,
            config.min_lower,
        ),
        details=details,
    )


def logrank_scores(time_n: FloatArray, event_n: np.ndarray[Any, Any]) -> FloatArray:
    """event - H(time) with the Nelson-Aalen cumulative hazard H of the whole sample.

    Their sum over one group is observed minus expected events, the log-rank numerator.
    """
    at_n, deaths_k, at_risk_k = _life_table(time_n, event_n)
    hazard_k = np.cumsum(deaths_k / at_risk_k)
    scores_n: FloatArray = np.asarray(event_n, dtype=np.float64) - hazard_k[at_n]
    return scores_n


def logrank(time_2SN: FloatArray, event_2SN: np.ndarray[Any, Any]) -> tuple[float, float]:
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


def kaplan_meier_median(time_n: FloatArray, event_n: np.ndarray[Any, Any]) -> float | None:
    """Time at which half had the event; None where it was not reached."""
    _, deaths_k, at_risk_k = _life_table(time_n, event_n)
    survival_k = np.cumprod(1.0 - deaths_k / at_risk_k)
    reached = np.flatnonzero(survival_k <= 0.5)
    return float(np.unique(time_n)[reached[0]]) if len(reached) else None


def _life_table(
    time_n: FloatArray, event_n: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], FloatArray, FloatArray]:
    """Index of each distinct time, events there, and how many were at risk just before."""
    _, at_n, counts_k = np.unique(time_n, return_inverse=True, return_counts=True)
    deaths_k: FloatArray = np.bincount(at_n, weights=event_n.astype(np.float64)).astype(np.float64)
    at_risk_k = np.cumsum(counts_k[::-1])[::-1].astype(np.float64)
    return at_n, deaths_k, at_risk_k


def _check(config: TimeToEvent, clustered: bool, events: tuple[FloatArray, FloatArray]) -> None:
    if clustered:
        raise GateError(
            f"Gate {config.id!r}: times averaged within clusters are not times; give each "
            "cluster one observation."
        )
    if not is_binary(*events):
        raise GateError(f"Gate {config.id!r}: {config.metric}_event must be 0 or 1.")


def _decide(
    config: TimeToEvent,
    estimate: float,
    interval: Interval | None,
    rank_p: float | None,
    context: GateContext,
) -> tuple[Decision, str]:
    if interval is None or rank_p is None:
        return "INVALID", ZERO_VARIATION.format(
            what="the difference of the times is the same everywhere"
        )
    if interval.high < config.min_point or interval.high <= config.min_lower:
        return "FAIL", "the upper bound lies below the margin; not reached"
    shown = f"two-way log-rank p = {rank_p:.3g}"
    if interval.low > config.min_lower and estimate >= config.min_point and rank_p < context.alpha:
        return "PASS", shown
    return "INCONCLUSIVE", f"{shown}; not all parts of the rule are met, nor refuted"
