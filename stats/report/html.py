"""Writes the report: one self-contained page, the tables as files, the scores as Parquet.

The page needs no network: style and figures are inlined. Text from missions is escaped.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stats.family import counted
from stats.parity import QUANTITIES
from stats.report import power_curves, tables, wording
from stats.report.arms import arm_means, metric_order
from stats.report.checklist import checklist
from stats.report.context import Extra, MissionInfo, ReportContext
from stats.report.critical import LEAST_BLOCKS, Ranking
from stats.report.curves import curves_figure
from stats.report.figures import DrawnFigure, all_scenarios, draw, report_figures, write_figures
from stats.report.forest import (
    UNDECIDED,
    decision_text,
    forest_rows,
    margins_text,
    standing,
    values_text,
)
from stats.report.latex import latex_table
from stats.report.profiles import RESAMPLES, Profiles
from stats.report.theme import clean, inline_svg, svg_text
from stats.report.wording import MEANINGS, WORDS, measured_sentence
from stats.scores import ScoreTable
from stats.verdict import MissionVerdict

__all__ = ["MAX_BYTES", "measured_sentence", "render", "write_report"]

_FIGURE = re.compile(r"[-+~<>±\[]?\s*[\d.]|–$")  # noqa: RUF001
MAX_BYTES = 2_000_000
"""A page is meant to be read on a telephone; the scores lie beside it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtraView:
    """What a mission lent, ready for the page."""

    extra: Extra
    svg: str
    png: str
    paragraphs: tuple[str, ...]
    figures: tuple[bool, ...]
    """Of each column of the table: whether it holds figures, not words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """All figures with what stands beside them."""

    figures: Sequence[DrawnFigure]
    profiles: Profiles
    rankings: Sequence[Ranking]
    not_ranked: Mapping[str, str]


def write_report(
    out_dir: str | Path,
    verdicts: Sequence[MissionVerdict],
    scores_by_mission: Mapping[str, ScoreTable],
    context: ReportContext,
) -> Path:
    """Writes index.html and its files into `out_dir` and returns the path of the page.

    Beside the page: verdicts.json, verdicts.md, verdicts.tex, figures/ (SVG, PNG and PDF) and
    scores/<mission>.parquet.
    """
    folder = Path(out_dir)
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    files = {
        "verdicts.json": tables.json_text(verdicts),
        "verdicts.md": tables.markdown_table(verdicts),
        "verdicts.tex": latex_table(verdicts),
    }
    for name, text in files.items():
        (folder / name).write_text(clean(text), encoding="utf-8")
    for mission, scores in scores_by_mission.items():
        scores.to_parquet(folder / "scores" / f"{mission}.parquet")
    drawn = _draw(verdicts, scores_by_mission, files=True)
    names = [*sorted(files), *write_figures(folder / "figures", drawn.figures)]
    page = folder / "index.html"
    text = _render(verdicts, scores_by_mission, context, names, drawn)
    page.write_text(text, encoding="utf-8")
    return page


def render(
    verdicts: Sequence[MissionVerdict],
    scores_by_mission: Mapping[str, ScoreTable],
    context: ReportContext,
    files: Sequence[str] = (),
) -> str:
    """The page as text."""
    drawn = _draw(verdicts, scores_by_mission, files=False)
    return _render(verdicts, scores_by_mission, context, files, drawn)


def _draw(
    verdicts: Sequence[MissionVerdict], scores: Mapping[str, ScoreTable], *, files: bool
) -> Drawn:
    found, ranked, not_ranked = all_scenarios(verdicts, scores)
    return Drawn(
        figures=[
            drawn
            for one in report_figures(verdicts, found, ranked)
            if (drawn := draw(one, files=files)) is not None
        ],
        profiles=found,
        rankings=ranked,
        not_ranked=not_ranked,
    )


def _render(
    verdicts: Sequence[MissionVerdict],
    scores_by_mission: Mapping[str, ScoreTable],
    context: ReportContext,
    files: Sequence[str],
    drawn: Drawn,
) -> str:
    order = [verdict.mission for verdict in verdicts]
    missions = sorted(scores_by_mission, key=lambda m: order.index(m) if m in order else len(order))
    means = {mission: arm_means(scores_by_mission[mission]) for mission in missions}
    by_mission = {verdict.mission: verdict for verdict in verdicts}
    text = (
        _environment()
        .get_template("page.html")
        .render(
            context=context,
            verdicts=verdicts,
            words=WORDS,
            meanings={word: MEANINGS[word] for word in WORDS if _present(word, verdicts)},
            info={v.mission: _info(context, v) for v in verdicts},
            standing=standing,
            figures={one.name: one for one in drawn.figures},
            forest_rows=forest_rows,
            forest_cells=lambda v, g: (margins_text(g), values_text(g), decision_text(v, g)),
            undecided=UNDECIDED,
            detectable=power_curves.detectable_table(verdicts),
            power_factor=power_curves.FACTOR,
            profiles=drawn.profiles,
            profile_resamples=RESAMPLES,
            rankings=drawn.rankings,
            not_ranked=drawn.not_ranked,
            least_blocks=LEAST_BLOCKS,
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
                mission: [_view(extra, f"extra-{at}-{n}") for n, extra in enumerate(extras)]
                for at, (mission, extras) in enumerate(context.extras.items())
            },
            checklist=checklist(verdicts, context, scores_by_mission),
            footnote=tables.footnote(verdicts),
            tables=tables,
            members=counted,
            wording=wording,
            parity_quantities=QUANTITIES,
            parity_tolerances=", ".join(
                sorted({f"± {row.tolerance:.0%}" for v in verdicts for row in v.parity})
            )
            or tables.NONE,
            files=files,
            css=Markup((Path(__file__).parent / "page.css").read_text(encoding="utf-8")),
        )
    )
    return clean(text)


def _environment() -> Environment:
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
        "duration": wording.duration,
        "error": tables.error_text,
        "tight": wording.tight,
        "count": lambda value: tables.NONE if value is None else f"{value:,.0f}",
    }
    return environment


def _arm_order(verdict: MissionVerdict | None, scores: ScoreTable) -> list[str]:
    """Treatment and control first, the others by name."""
    first = [] if verdict is None else [verdict.treatment, verdict.control]
    return sorted(scores.arms, key=lambda arm: (arm not in first, first != [] and arm != first[0]))


def _present(word: str, verdicts: Sequence[MissionVerdict]) -> bool:
    return any(standing(verdict) == word for verdict in verdicts)


def _info(context: ReportContext, verdict: MissionVerdict) -> MissionInfo:
    return context.missions.get(verdict.mission, MissionInfo(title=f"Mission {verdict.mission}"))


def _view(extra: Extra, name: str) -> ExtraView:
    png = ""
    if extra.png is not None:
        png = base64.b64encode(extra.png.read_bytes()).decode("ascii")
    svg = Markup("")
    if extra.lines:
        text = extra.caption or extra.title
        raw = svg_text(curves_figure(extra))
        svg = Markup(inline_svg(raw, name=name, title=extra.title, text=text))
    return ExtraView(
        extra=extra,
        svg=svg,
        png=png,
        paragraphs=tuple(part.strip() for part in extra.text.split("\n\n") if part.strip()),
        figures=tuple(
            all(_is_figure(row[at]) for row in extra.rows if len(row) > at)
            for at in range(max(map(len, [extra.columns, *extra.rows])))
        ),
    )


def _is_figure(cell: str | float) -> bool:
    """Whether a cell is a number, or a text that starts like one, or empty."""
    return not isinstance(cell, str) or not cell or bool(_FIGURE.match(cell))
