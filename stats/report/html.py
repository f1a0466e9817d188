"""Writes the report: one self-contained page, the tables as files, the scores as Parquet.

The page needs no network: style and figures are inlined. Text from missions is escaped.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stats.parity import QUANTITIES, ParityRow
from stats.report import tables
from stats.report.arms import arm_means, metric_order
from stats.report.checklist import checklist
from stats.report.components import components_figure
from stats.report.context import Extra, MissionInfo, ReportContext
from stats.report.curves import curves_figure
from stats.report.forest import NARROW, WIDE, forest_figure
from stats.report.theme import file_svg, inline_svg
from stats.result import GateResult
from stats.scores import ScoreTable
from stats.verdict import MissionVerdict

WORDS = {
    "PROMOTE": "Promoted",
    "REJECT": "Not supported",
    "INCONCLUSIVE": "Inconclusive",
    "INVALID": "Invalid",
    "WITHHELD": "Verdict withheld",
}
FOREST_LABEL = "Forest plot of all comparisons by mission; its figures stand in the gate table"
BARS_LABEL = "Share of each estimate's variance by source"
MEANINGS = {
    "PROMOTE": "every required gate passes and the mission survives Benjamini-Hochberg",
    "REJECT": "a required gate is shown not to reach its margin",
    "INCONCLUSIVE": "a margin lies inside its interval; the data do not decide",
    "INVALID": "the comparison cannot be believed, for the reason given",
    "WITHHELD": "this profile gives no verdict; the figures are shown all the same",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtraView:
    """What a mission lent, ready for the page."""

    extra: Extra
    svg: str
    png: str
    paragraphs: tuple[str, ...]


def write_report(
    out_dir: str | Path,
    verdicts: Sequence[MissionVerdict],
    scores_by_mission: Mapping[str, ScoreTable],
    context: ReportContext,
) -> Path:
    """Writes index.html and its files into `out_dir` and returns the path of the page.

    Beside the page: verdicts.json, verdicts.md, verdicts.tex, forest.svg and
    scores/<mission>.parquet.
    """
    folder = Path(out_dir)
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    files = {
        "verdicts.json": tables.json_text(verdicts),
        "verdicts.md": tables.markdown_table(verdicts),
        "verdicts.tex": tables.latex_table(verdicts),
    }
    wide = forest_figure(verdicts, WIDE)
    if wide is not None:
        files["forest.svg"] = file_svg(wide)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    for mission, scores in scores_by_mission.items():
        scores.to_parquet(folder / "scores" / f"{mission}.parquet")
    page = folder / "index.html"
    page.write_text(render(verdicts, scores_by_mission, context, sorted(files)), encoding="utf-8")
    return page


def render(
    verdicts: Sequence[MissionVerdict],
    scores_by_mission: Mapping[str, ScoreTable],
    context: ReportContext,
    files: Sequence[str] = (),
) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("stats.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "num": tables.figure,
        "p": tables.p_text,
        "interval": tables.interval_text,
        "duration": duration,
        "error": tables.error_text,
        "tight": tight,
        "count": lambda value: tables.NONE if value is None else f"{value:,.0f}",
    }
    wide, narrow = forest_figure(verdicts, WIDE), forest_figure(verdicts, NARROW)
    means = {mission: arm_means(scores) for mission, scores in scores_by_mission.items()}
    by_mission = {verdict.mission: verdict for verdict in verdicts}
    return environment.get_template("page.html").render(
        context=context,
        verdicts=verdicts,
        words=WORDS,
        meanings={word: MEANINGS[word] for word in WORDS if _present(word, verdicts)},
        info={v.mission: _info(context, v) for v in verdicts},
        sentences={v.mission: measured_sentence(v) for v in verdicts},
        forest_wide=_svg(wide, FOREST_LABEL),
        forest_narrow=_svg(narrow, FOREST_LABEL),
        components=_svg(components_figure(verdicts), BARS_LABEL),
        components_narrow=_svg(components_figure(verdicts, width=4.0), BARS_LABEL),
        means=means,
        metric_order={
            mission: metric_order(by_mission[mission], list(table))
            if mission in by_mission
            else sorted(table)
            for mission, table in means.items()
        },
        arm_order={
            mission: _arm_order(by_mission.get(mission), scores)
            for mission, scores in scores_by_mission.items()
        },
        digests={mission: scores.digest() for mission, scores in scores_by_mission.items()},
        extras={
            mission: [_view(extra) for extra in extras]
            for mission, extras in context.extras.items()
        },
        checklist=checklist(verdicts, context),
        footnote=tables.footnote(verdicts),
        gate_unit=tables.unit,
        would_decide=would_decide,
        detail_lines=detail_lines,
        beyond_gates=beyond_gates,
        parity_pairs=parity_pairs,
        parity_quantities=QUANTITIES,
        parity_tolerances=", ".join(
            sorted({f"± {row.tolerance:.0%}" for v in verdicts for row in v.parity})
        )
        or tables.NONE,
        files=files,
        css=Markup((Path(__file__).parent / "page.css").read_text(encoding="utf-8")),
    )


def measured_sentence(verdict: MissionVerdict) -> str:
    """What was measured, in a sentence."""
    gate = verdict.primary
    against = f"{gate.treatment} against {gate.versus}" if gate.versus else gate.treatment
    if gate.estimate is None:
        return f"No estimate of {gate.metric} for {against}."
    unit = tables.unit(gate)
    estimate = (
        f"{tables.figure(gate.estimate, gate.scale, signed=True)}{' ' + unit if unit else ''}"
    )
    interval = tables.interval_text(gate.interval, gate.scale)
    what = {
        "contrast": f"contrast on {gate.metric}",
        "time_to_event": f"time gained on {gate.metric}",
        "monotone": f"slope of {gate.metric} per level",
    }.get(gate.kind, f"{gate.metric}")
    return (
        f"{what}, {against}: {estimate} {interval}, {len(gate.seeds)} seeds x "
        f"{gate.num_examples:,} test items."
    )


def beyond_gates(verdict: MissionVerdict) -> list[str]:
    """Reasons of the verdict that do not repeat a gate's own."""
    own = {f"{gate.gate}: {gate.reason}" for gate in verdict.gates}
    return [reason for reason in verdict.reasons if reason not in own]


def parity_pairs(verdict: MissionVerdict) -> list[tuple[tuple[str, str], dict[str, ParityRow]]]:
    """Pair of arms -> quantity -> row."""
    found: dict[tuple[str, str], dict[str, ParityRow]] = {}
    for row in verdict.parity:
        found.setdefault((row.treatment, row.control), {})[row.quantity] = row
    return list(found.items())


def would_decide(gate: GateResult) -> str:
    """The sizes that would decide an undecided gate; empty for others."""
    if gate.would_decide is None:
        return ""
    unit = tables.unit(gate)
    assumed = tables.figure(gate.would_decide.assumed, gate.scale, signed=True)
    return f"{gate.would_decide.text} (if {assumed}{' ' + unit if unit else ''} is true)"


def detail_lines(gate: GateResult) -> list[tuple[str, str]]:
    """Label and text of what stands behind a gate."""
    lines = [("estimand", gate.estimand)] if gate.estimand else []
    if gate.treatment_mean is not None:
        text = f"{gate.treatment} {tables.figure(gate.treatment_mean, gate.scale)}"
        if gate.control_mean is not None:
            text += f", {gate.versus} {tables.figure(gate.control_mean, gate.scale)}"
        lines.append(("means", text + (" (%)" if gate.scale == "fraction" else "")))
    if gate.components is not None:
        parts = (gate.components.seed, gate.components.example, gate.components.residual)
        names = ("seed", "item", "residual")
        text = ", ".join(
            f"{name} {tables.figure(part**0.5, gate.scale)}"
            for name, part in zip(names, parts, strict=True)
        )
        lines.append(("standard deviations", f"{text} {tables.unit(gate)}".strip()))
    if gate.effects:
        text = "; ".join(
            f"{e.name} over {e.unit} {e.value:.2f} [{e.low:.2f}, {e.high:.2f}]"
            for e in gate.effects
        )
        lines.append(("effect sizes (Hedges)", text))
    lines += [(key.replace("_", " "), _plain(value)) for key, value in gate.details.items()]
    if gate.note:
        lines.append(("note", gate.note))
    return lines


def tight(text: str) -> str:
    """Text whose figures do not part from their units at the end of a line."""
    return re.sub(r"(?<=[\d\])]) (?=pp\b|%)", "\N{NO-BREAK SPACE}", text)


def duration(seconds: float) -> str:
    """`4 min 12 s`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    parts = [f"{hours} h" if hours else "", f"{minutes} min" if minutes else "", f"{whole % 60} s"]
    return " ".join(part for part in parts if part)


def _plain(value: Any) -> str:
    if value is None:
        return tables.NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(item) for item in value)
    return str(value)


def _arm_order(verdict: MissionVerdict | None, scores: ScoreTable) -> list[str]:
    """Treatment and control first, the others by name."""
    first = [] if verdict is None else [verdict.treatment, verdict.control]
    return sorted(scores.arms, key=lambda arm: (arm not in first, first != [] and arm != first[0]))


def _present(word: str, verdicts: Sequence[MissionVerdict]) -> bool:
    return any(verdict.verdict == word for verdict in verdicts)


def _info(context: ReportContext, verdict: MissionVerdict) -> MissionInfo:
    return context.missions.get(verdict.mission, MissionInfo(title=f"Mission {verdict.mission}"))


def _svg(figure: Any, label: str) -> Markup:
    return Markup(inline_svg(figure, label)) if figure is not None else Markup("")


def _view(extra: Extra) -> ExtraView:
    png = ""
    if extra.png is not None:
        png = base64.b64encode(extra.png.read_bytes()).decode("ascii")
    return ExtraView(
        extra=extra,
        svg=_svg(curves_figure(extra), extra.title) if extra.lines else "",
        png=png,
        paragraphs=tuple(part.strip() for part in extra.text.split("\n\n") if part.strip()),
    )
