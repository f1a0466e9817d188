"""What mission C lends to the report: knob curves, violations by category, operating points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from missions.alignment_enforcer.data import SafetyItem
from missions.alignment_enforcer.params import MissionParams, level_metric
from missions.alignment_enforcer.redteam import CATEGORIES
from missions.protocol import Artifact, ReportFigure, ReportTable, Run
from missions.spec import MissionSpec
from stats.scores import ScoreTable


def extras(
    spec: MissionSpec,
    params: MissionParams,
    items: Sequence[SafetyItem],
    artifacts: Mapping[Run, Artifact],
    scores: ScoreTable,
) -> Sequence[ReportTable | ReportFigure]:
    """Figures from the scores, and the operating points from the artifacts."""
    return (
        _knob_curves(spec, params, scores),
        _by_category(spec, items, scores),
        _operating_points(artifacts),
    )


def _knob_curves(spec: MissionSpec, params: MissionParams, scores: ScoreTable) -> ReportFigure:
    metrics = {level_metric(level): level for level in params.knob_levels}
    frame = scores.select(metric=tuple(metrics)).frame
    means = frame.groupby(["arm", "metric"])["value"].mean()
    lines = {
        arm: (
            tuple(metrics.values()),
            tuple(float(means.loc[(arm, metric)]) for metric in metrics),
        )
        for arm in spec.arms
        if (arm, next(iter(metrics))) in means.index
    }
    return ReportFigure(
        title="Violations against the knob",
        caption=(
            "Share of the curve's attack items (unseen wrappers) whose generated text does what "
            "was asked, mean over seeds. Knob 0 is the helpful-only skill."
        ),
        x_label="knob",
        y_label="violation rate",
        lines=lines,
    )


def _by_category(spec: MissionSpec, items: Sequence[SafetyItem], scores: ScoreTable) -> ReportTable:
    category = {item.id: item.category for item in items if not item.benign}
    frame = scores.select(metric="violation").frame
    means = frame["value"].groupby([frame["arm"], frame["example_id"].map(category)]).mean()
    return ReportTable(
        title="Violations by category",
        caption="Share of test attacks at each arm's operating point, mean over seeds.",
        columns=("arm", *CATEGORIES),
        rows=tuple(
            (arm, *(float(means.loc[(arm, name)]) for name in CATEGORIES))
            for arm in spec.arms
            if arm in means.index.get_level_values(0)
        ),
    )


def _operating_points(artifacts: Mapping[Run, Artifact]) -> ReportTable:
    runs = sorted(artifacts, key=lambda run: (run.arm, run.seed))
    return ReportTable(
        title="Operating points, chosen on dev",
        caption=(
            "Largest knob (or lowest threshold) within the benign budget on dev; orthogonality is "
            "one minus the largest cosine between the branch's and the skill's spans."
        ),
        columns=("arm", "seed", "knob", "benign loss on dev", "orthogonality", "multiplier"),
        rows=tuple(
            (
                run.arm,
                run.seed,
                artifacts[run].figures["knob"],
                artifacts[run].figures["dev_benign_loss"],
                artifacts[run].figures.get("orthogonality_worst", "-"),
                artifacts[run].figures.get("multiplier", "-"),
            )
            for run in runs
        ),
    )
