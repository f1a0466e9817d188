"""One comparison without a mission: two arms on one metric, judged by one gate.

The front door for scores that come from elsewhere. Knows the gates by their configuration only,
so every kind can be asked for here by the settings that a mission file would hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy.typing as npt

from stats.bootstrap import CrossedResamples
from stats.checkpoint import CheckpointInterval, checkpoint_interval
from stats.errors import GateError, ScoreError, StatsError
from stats.gates import GateContext, evaluate_gate, gate_kinds, parse_gate
from stats.plain import to_plain
from stats.result import BootstrapInterval, Decision, GateResult, Interval
from stats.scores import ScoreTable
from stats.tables import Scores, as_scores

_TAKEN = {
    "versus": "name the other arm with control",
    "id": "a comparison is named after its arms",
    "primary": "the only gate of a comparison is the primary one",
}
"""Settings of a gate in a mission file that `compare` sets itself, and what to do instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What is known about one arm against another; `print` shows it."""

    result: GateResult
    """Everything that the gate measured; the properties below are its main figures."""
    checkpoint: CheckpointInterval | None
    """With one seed an arm: what these two checkpoints show. Never feeds the decision."""

    @property
    def decision(self) -> Decision:
        """PASS, FAIL, INCONCLUSIVE or INVALID."""
        return self.result.decision

    @property
    def reason(self) -> str:
        return self.result.reason

    @property
    def estimate(self) -> float | None:
        return self.result.estimate

    @property
    def interval(self) -> Interval | None:
        """The interval that decided."""
        return self.result.interval

    @property
    def bootstrap(self) -> BootstrapInterval | None:
        """Calibrated crossed BCa, beside it."""
        return self.result.bootstrap

    @property
    def p_value(self) -> float | None:
        """One-sided, against the gate's margin."""
        return self.result.p_value

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; figures that do not exist are null."""
        return {
            "result": self.result.to_dict(),
            "checkpoint": None if self.checkpoint is None else dict(to_plain(self.checkpoint)),
        }

    def __str__(self) -> str:
        return "\n".join(_lines(self.result, self.checkpoint))


def compare(
    scores: Scores | None = None,
    treatment: str | npt.ArrayLike = "treatment",
    control: str | npt.ArrayLike = "control",
    *,
    metric: str | None = None,
    columns: Mapping[str, str] | None = None,
    clusters: Sequence[str] | None = None,
    kind: str = "superiority",
    level: float = 0.95,
    resamples: int = 10_000,
    rng_seed: int = 0,
    **settings: Any,
) -> Comparison:
    """Is the treatment better than the control, for new seeds and new test items?

        compare(frame, "new", "old", metric="em", min_point=0.015)
        compare(treatment=new_SN, control=old_SN)
        compare({"new": new_SN, "old": old_SN}, "new", "old", kind="non_inferiority", margin=0.01)

    Args:
        scores: a `ScoreTable`, a pandas long table or arm -> array (see `stats.as_scores`); leave
            it out where `treatment` and `control` are the arrays themselves.
        treatment: name of an arm, or an array of shape (seeds, examples).
        control: the same; arrays are paired by position.
        metric: which metric; may be left out where there is only one.
        columns: our column name -> the table's own.
        clusters: one label an example (arrays only).
        kind: any two-arm gate kind (`stats.gate_kinds()`).
        level: of the two-sided intervals; the decision is one-sided at (1 - level) / 2.
        resamples: of the bootstrap that stands beside the deciding interval.
        settings: of the gate, as in a mission file: `min_point`, `min_lower`, `margin`, ...

    Raises:
        StatsError: scores, arms or settings that do not fit, in one line. Too little data to
            decide is a result (INCONCLUSIVE or INVALID), not an error.
    """
    _refuse_bad_settings(kind, metric, level, resamples, rng_seed, settings)
    table, names = _table(scores, treatment, control, metric, columns, clusters)
    metric = _metric(table, metric, kind)
    gate = parse_gate(
        {
            "id": f"{names[0]}-vs-{names[1]}",
            "kind": kind,
            "metric": metric,
            "treatment": names[0],
            "versus": names[1],
            "primary": True,
            **settings,
        }
    )
    for arm in names:
        if arm not in table.arms:
            raise ScoreError(f"No scores of arm {arm!r}; known arms: {list(table.arms)}.")
    context = GateContext(
        scores=table,
        resampler=CrossedResamples(rng_seed=rng_seed, resamples=resamples),
        level=level,
    )
    return Comparison(
        result=evaluate_gate(gate, context),
        checkpoint=_checkpoint(table, metric, names, level),
    )


def _refuse_bad_settings(
    kind: object,
    metric: object,
    level: object,
    resamples: object,
    rng_seed: object,
    settings: Mapping[str, Any],
) -> None:
    if not isinstance(kind, str) or kind not in gate_kinds():
        raise GateError(f"kind: unknown kind {kind!r}; known: {', '.join(gate_kinds())}.")
    if metric is not None and not isinstance(metric, str):
        raise StatsError(f"metric: got {metric!r}; expected the name of a metric.")
    if isinstance(level, bool) or not isinstance(level, Real) or not 0.0 < float(level) < 1.0:
        raise StatsError(f"level: got {level!r}; expected a number between 0 and 1, such as 0.95.")
    for name, value, least in (("resamples", resamples, 2), ("rng_seed", rng_seed, 0)):
        if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
            raise StatsError(f"{name}: got {value!r}; expected an integer of at least {least}.")
    for name, instead in _TAKEN.items():
        if name in settings:
            raise StatsError(f"{name}: got {settings[name]!r}; not a setting here, {instead}.")


def _table(
    scores: Scores | None,
    treatment: str | npt.ArrayLike,
    control: str | npt.ArrayLike,
    metric: str | None,
    columns: Mapping[str, str] | None,
    clusters: Sequence[str] | None,
) -> tuple[ScoreTable, tuple[str, str]]:
    if isinstance(treatment, str) and isinstance(control, str):
        if scores is None:
            raise ScoreError("Give scores and the names of two arms, or two arrays.")
        table = as_scores(scores, metric=metric, columns=columns, clusters=clusters)
        return table, (treatment, control)
    if scores is not None or isinstance(treatment, str) or isinstance(control, str):
        raise ScoreError("Give scores and the names of two arms, or two arrays; not both.")
    arrays = {"treatment": treatment, "control": control}
    table = as_scores(arrays, metric=metric, columns=columns, clusters=clusters)
    return table, ("treatment", "control")


def _metric(table: ScoreTable, metric: str | None, kind: str) -> str:
    if metric is None and len(table.metrics) == 1:
        return table.metrics[0]
    if metric is None:
        raise ScoreError(f"metric: name one of {list(table.metrics)}.")
    if metric not in table.metrics and kind not in ("monotone", "slope", "exact"):
        raise ScoreError(f"No scores of metric {metric!r}; known metrics: {list(table.metrics)}.")
    return metric


def _checkpoint(
    table: ScoreTable, metric: str, names: tuple[str, str], level: float
) -> CheckpointInterval | None:
    if len(table.select(metric=metric, arms=names).seeds) != 1:
        return None
    try:
        return checkpoint_interval(table, metric, *names, level=level)
    except StatsError:
        return None  # the gate has said already what is wrong with these scores


def _lines(result: GateResult, checkpoint: CheckpointInterval | None) -> list[str]:
    unit = 100.0 if result.scale == "fraction" else 1.0
    tail = " pp" if result.scale == "fraction" else ""
    form = "+.2f" if result.scale == "fraction" else "+.4g"

    def interval(low: float, high: float) -> str:
        return f"[{low * unit:{form}}, {high * unit:{form}}]{tail}"

    lines = [f"{result.treatment} against {result.versus}, {result.metric}: {result.decision}"]
    lines.append(f"  why        {result.reason}")
    if result.criterion:
        lines.append(f"  passes if  {result.criterion}")
    if result.estimate is not None:
        shown = f"  estimate   {result.estimate * unit:{form}}{tail}"
        if result.interval is not None:
            shown += f", {result.interval.level:.0%} {interval(*_limits(result.interval))}"
            shown += f" ({result.interval.method})"
        lines.append(shown)
    if result.bootstrap is not None:
        boot = result.bootstrap
        lines.append(
            f"  bootstrap  {interval(*_limits(boot))} ({boot.method}, {boot.resamples:,} resamples)"
        )
    if result.p_value is not None:
        lines.append(f"  p          {result.p_value:.3g} (one-sided)")
    sizes = [
        f"{e.name} over {e.unit} {e.value:.2f} [{e.low:.2f}, {e.high:.2f}]" for e in result.effects
    ]
    if sizes:
        lines.append(f"  effect     {'; '.join(sizes)}")
    if result.components is not None:
        parts = result.components
        lines.append(
            f"  variance   seed {parts.seed:.3g}, example {parts.example:.3g}, "
            f"residual {parts.residual:.3g}"
        )
    if result.mde is not None:
        lines.append(f"  detects    {result.mde * unit:.2f}{tail} from the margin at 80 % power")
    if result.would_decide is not None:
        lines.append(f"  to decide  {result.would_decide.text}")
    if result.num_units:
        units = f"{result.num_examples:,} examples"
        if result.num_units != result.num_examples:
            units += f" in {result.num_units:,} clusters"
        lines.append(f"  data       {len(result.seeds)} seeds x {units}")
    if result.estimand:
        lines.append(f"  estimand   {result.estimand}")
    if checkpoint is not None:
        lines.append(f"  one seed   {checkpoint}")
    return lines


def _limits(interval: Interval | BootstrapInterval) -> tuple[float, float]:
    return interval.low, interval.high
