"""Time to event: the treatment reaches the event sooner, with right-censored times.

The metric `<m>` holds min(time, censoring), `<m>_event` is 1 where the event happened. Two things
decide, and both must be shown. A log-rank test that keeps the pairing and covers new seeds and
new examples: each observation gets its log-rank score event - H(time), H the Nelson-Aalen estimate
of both arms together, and the paired differences of scores go through the two-way t (the
permutation form of the log-rank, Prentice 1978). And the gain in restricted mean time, control
minus treatment, with its two-way interval; where times are censored before the horizon, values of
Andersen's kind stand in for them.

The usual log-rank test stands beside it and does not decide: it takes all observations of both
arms as independent, but all times of one seed come from one trained model, and the same item is
met by every seed and by both arms.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from stats.errors import GateError
from stats.gates.base import GateContext, PairedGate, is_binary
from stats.gates.measured import mean, measured
from stats.gates.wording import Scale, no_interval, show_interval
from stats.inference import MeanInference, infer_mean, size_of
from stats.logrank import (
    kaplan_meier_median,
    logrank,
    logrank_scores,
    restricted_mean_values,
)
from stats.result import Decision, GateResult, WouldDecide
from stats.scores import FloatArray, PairedGrid, unit_means

DECIDES = (
    "two-way log-rank and two-way t of the gain: seeds and items both random, arms paired, so "
    "times that share a seed or an item may depend on each other"
)
PLAIN_ASSUMES = (
    "all times of both arms independent; times of one seed share its training, so with seed "
    "effects this p is too small; does not decide"
)


class TimeToEvent(PairedGate):
    """Passes when the log-rank test and the restricted mean difference both show it."""

    kind: Literal["time_to_event"]
    min_point: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Least gain of the point estimate, in the metric's unit of time."""
    min_lower: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """The lower bound of the gain must lie above this."""

    def quantity(self) -> str:
        return f"restricted mean {self.metric}, {self.versus} minus {self.treatment}"

    def rule(self, scale: Scale = "raw", alpha: float = 0.025) -> str:
        return (
            f"two-way log-rank p < {alpha:g}, gain's lower bound > {self.min_lower:g} and point "
            f">= {self.min_point:g}"
        )


CONFIG = TimeToEvent


def evaluate(config: TimeToEvent, context: GateContext) -> GateResult:
    """Two-way log-rank and the two-way t of the restricted mean difference."""
    times = context.paired(config.metric, config.treatment, config.versus)
    time_2SE, event_2SE = _cells(config, context, times)
    horizon = float(time_2SE.max())
    censored_early = bool((time_2SE[~event_2SE] < horizon).any())
    gain_2SE = _restricted(time_2SE, event_2SE, horizon) if censored_early else time_2SE
    scores_2SE = logrank_scores(time_2SE.ravel(), event_2SE.ravel()).reshape(time_2SE.shape)
    weights_N = config.weights(times)
    gain_2SN = [unit_means(arm_SE, times.example_ids, times.cluster_ids)[2] for arm_SE in gain_2SE]
    score_2SN = [
        unit_means(arm_SE, times.example_ids, times.cluster_ids)[2] for arm_SE in scores_2SE
    ]
    inference, ranked = (
        infer_mean(
            second - first,
            context.resampler,
            level=context.level,
            weights_N=weights_N,
            magnitude=size_of(first, second),
        )
        for first, second in (gain_2SN, score_2SN[::-1])
    )
    rank_p = ranked.p_value(0.0, "greater")
    gain_p = inference.p_value(config.min_lower, "greater")
    statistic, plain_p = logrank(time_2SE, event_2SE)
    decision, reason = _decide(config, inference, rank_p, context.alpha)
    details: dict[str, Any] = {
        "decides": DECIDES,
        "two_way_logrank_p": rank_p,
        "gain_p": gain_p,
        "plain_logrank_z": statistic,
        "plain_logrank_p": plain_p,
        "plain_logrank_assumes": PLAIN_ASSUMES,
        "event_share": [float(event_2SE[0].mean()), float(event_2SE[1].mean())],
        "median_time": [
            kaplan_meier_median(time_2SE[arm].ravel(), event_2SE[arm].ravel()) for arm in (0, 1)
        ],
        "censored_before_horizon": censored_early,
    }
    only_rank = inference.interval is not None and inference.interval.low > config.min_lower
    result = measured(
        config,
        context,
        times,
        inference,
        decision=decision,
        reason=f"sooner by {show_interval(inference, 'raw')}: {reason}",
        scale="raw",
        passing_side="above",
        margins=tuple(dict.fromkeys((config.min_lower, config.min_point))),
        p_value=None if rank_p is None or gain_p is None else max(rank_p, gain_p),
        assumed=(
            config.min_point if config.min_point > config.min_lower else inference.estimate,
            config.min_lower,
        ),
        details=details,
        plan=_plan_for_rank(inference, ranked, context) if only_rank else None,
        turned=True,
    )
    horizon_text = f"restricted mean {config.metric} (up to {horizon:g})"
    return replace(
        result,
        estimand=result.estimand.replace(f"restricted mean {config.metric}", horizon_text, 1),
        treatment_mean=mean(gain_2SN[0], weights_N),
        control_mean=mean(gain_2SN[1], weights_N),
    )


def _cells(
    config: TimeToEvent, context: GateContext, times: PairedGrid
) -> tuple[FloatArray, np.ndarray[Any, Any]]:
    """Times and events of both arms, one a seed and example."""
    name = f"{config.metric}_event"
    arms = (config.treatment, config.versus)
    time_2SE = np.stack([context.arm(config.metric, arm).cell_values_SE for arm in arms])
    events = [context.arm(name, arm) for arm in arms]
    for grid in events:
        if (grid.seeds, grid.example_ids, grid.cluster_ids) != (
            times.seeds,
            times.example_ids,
            times.cluster_ids,
        ):
            raise GateError(
                f"Gate {config.id!r}: {name} of {grid.arm!r} has other seeds, examples or clusters "
                f"than {config.metric}."
            )
    event_2SE = np.stack([grid.cell_values_SE for grid in events])
    if not is_binary(event_2SE):
        raise GateError(f"Gate {config.id!r}: {name} must be 0 or 1.")
    if float(time_2SE.min()) < 0:
        raise GateError(f"Gate {config.id!r}: {config.metric} holds a time below 0.")
    if not bool((event_2SE == 1.0).any()):
        raise GateError(f"Gate {config.id!r}: no events in either arm; nothing can be compared.")
    return time_2SE, event_2SE == 1.0


def _restricted(
    time_2SE: FloatArray, event_2SE: np.ndarray[Any, Any], horizon: float
) -> FloatArray:
    return np.stack(
        [
            restricted_mean_values(time_SE.ravel(), event_SE.ravel(), horizon)[1].reshape(
                time_SE.shape
            )
            for time_SE, event_SE in zip(time_2SE, event_2SE, strict=True)
        ]
    )


def _plan_for_rank(
    inference: MeanInference, ranked: MeanInference, context: GateContext
) -> WouldDecide | None:
    """Sizes for the log-rank part, where the gain is shown and the log-rank is not."""
    plan = ranked.would_decide(ranked.estimate, 0.0, context.alpha, context.power)
    if plan is None:
        return None
    return replace(plan, assumed=inference.estimate, text=f"{plan.text}, for the log-rank test")


def _decide(
    config: TimeToEvent, inference: MeanInference, rank_p: float | None, alpha: float
) -> tuple[Decision, str]:
    estimate, interval = inference.estimate, inference.interval
    if interval is None or rank_p is None:
        return "INVALID", no_interval(inference, "the difference of the times")
    if interval.high < config.min_point or interval.high <= config.min_lower:
        return "FAIL", "the upper bound lies below the margin; not reached"
    shown = f"two-way log-rank p = {rank_p:.3g}"
    if interval.low > config.min_lower and estimate >= config.min_point and rank_p < alpha:
        return "PASS", shown
    return "INCONCLUSIVE", f"{shown}; not all parts of the rule are met, nor refuted"
