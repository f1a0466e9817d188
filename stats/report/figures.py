"""Every figure of the report: its name, its words, and its files for a paper.

A figure has a wide and a narrow form on the page. SVG and PNG of the wide one lie below
`figures/`, and a PDF of those that papers print. Draws nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure as Drawing

from stats.report import components, critical, forest, power_curves, profiles
from stats.report.theme import file_svg, inline_svg, pdf_bytes, png_bytes, recolour, svg_text
from stats.scores import ScoreTable
from stats.verdict import MissionVerdict

IN_PAPERS = ("forest",)
"""Figures with a PDF: embedding its fonts takes longer than everything else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFigure:
    """One figure."""

    name: str
    """File name without its ending, and the start of all ids in the page."""
    title: str
    text: str
    """What it shows, in words."""
    wide: Callable[[], Drawing | None]
    narrow: Callable[[], Drawing | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnFigure:
    """One figure as markup for the page and as files."""

    name: str
    wide: Markup
    narrow: Markup
    files: Mapping[str, bytes]
    """Ending -> content."""


def report_figures(
    verdicts: Sequence[MissionVerdict],
    found: profiles.Profiles,
    ranked: Sequence[critical.Ranking],
) -> list[ReportFigure]:
    """The figures that have something to show, in the order of the page."""
    curves = power_curves.power_curves(verdicts)
    figures = [
        ReportFigure(
            name="forest",
            title="Forest plot of all comparisons by mission",
            text=forest.described(verdicts),
            wide=lambda: forest.forest_figure(verdicts, forest.WIDE),
            narrow=lambda: forest.forest_figure(verdicts, forest.NARROW),
        ),
        ReportFigure(
            name="variance",
            title="Share of each estimate's variance by source",
            text=components.described(verdicts),
            wide=lambda: components.components_figure(verdicts),
            narrow=lambda: components.components_figure(verdicts, width=4.0),
        ),
        ReportFigure(
            name="power",
            title="Power of the primary gates against the number of seeds",
            text=power_curves.described(curves),
            wide=lambda: power_curves.power_figure(verdicts),
            narrow=lambda: power_curves.power_figure(verdicts, columns=1),
        ),
        ReportFigure(
            name="profiles",
            title="Performance profiles over scenarios",
            text=profiles.described(found),
            wide=lambda: profiles.profiles_figure(found),
            narrow=lambda: profiles.profiles_figure(found, columns=1),
        ),
        ReportFigure(
            name="critical",
            title="Critical-difference diagram over scenarios",
            text=critical.described(ranked),
            wide=lambda: critical.critical_figure(ranked),
            narrow=lambda: critical.critical_figure(ranked, width=4.0),
        ),
    ]
    return [one for one in figures if one.text]


def draw(one: ReportFigure, *, files: bool) -> DrawnFigure | None:
    """Draws one figure in its forms for the page; None where there is nothing to show.

    Args:
        files: whether its files for papers are made too.
    """
    wide, narrow = one.wide(), one.narrow()
    if wide is None or narrow is None:
        return None
    raw = svg_text(wide)
    inlined = {
        form: Markup(inline_svg(text, name=f"{one.name}-{form}", title=one.title, text=one.text))
        for form, text in (("wide", raw), ("narrow", svg_text(narrow)))
    }
    contents: dict[str, bytes] = {}
    if files:
        recolour(wide)
        contents = {"svg": file_svg(raw).encode(), "png": png_bytes(wide)}
        if one.name in IN_PAPERS:
            contents["pdf"] = pdf_bytes(wide)
    return DrawnFigure(
        name=one.name, wide=inlined["wide"], narrow=inlined["narrow"], files=contents
    )


def write_figures(folder: Path, figures: Sequence[DrawnFigure]) -> list[str]:
    """Writes the files and returns their paths relative to the report."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[str] = []
    for one in figures:
        for ending, content in one.files.items():
            (folder / f"{one.name}.{ending}").write_bytes(content)
            written.append(f"{folder.name}/{one.name}.{ending}")
    return written


def all_scenarios(
    verdicts: Sequence[MissionVerdict], scores: Mapping[str, ScoreTable]
) -> tuple[profiles.Profiles, list[critical.Ranking], dict[str, str]]:
    """Profiles, rankings, and why a mission has no ranking."""
    ranked, not_ranked = critical.rankings(verdicts, scores)
    return profiles.profiles(verdicts, scores), ranked, not_ranked
