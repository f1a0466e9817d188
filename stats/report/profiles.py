"""Performance profiles: the share of scenario-runs that score at least tau, for every tau.

Agarwal et al. 2021 (arXiv 2108.13264), with two differences. There the runs of a task are drawn
anew within each task; here one trained model is scored in all scenarios of a mission, so a
resample draws seeds once for all scenarios of a mission and independently between missions (the
strata). And missions count alike, however many scenarios they have. Bands are pointwise and
descriptive: with five seeds they come out too narrow.

Shapes: K scenarios, S seeds, T thresholds, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stats.report.scenarios import Scenarios, scenarios_of
from stats.report.theme import MUTED, SERIES, shorten, style
from stats.scores import FloatArray, ScoreTable
from stats.verdict import MissionVerdict

RESAMPLES = 2000
LEVEL = 0.95
THRESHOLDS = 201
_OTHERS = ((0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Line:
    """The profile of one arm."""

    label: str
    share_T: FloatArray
    low_T: FloatArray
    high_T: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Panel:
    """The profiles of one mission, or of all."""

    title: str
    note: str
    lines: tuple[Line, ...]
    """Treatment and control first; the others carry no band in the figure."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Profiles:
    """All panels, and the missions that have none with the reason."""

    thresholds_T: FloatArray
    panels: tuple[Panel, ...]
    left_out: Mapping[str, str]


def profile(means_KS: FloatArray, thresholds_T: FloatArray) -> FloatArray:
    """Share of the scenario-runs that reach each threshold."""
    flat = np.sort(means_KS, axis=None)
    # A mean of binary scores may miss its own value by rounding.
    below_T = np.searchsorted(flat, thresholds_T - 1e-12, side="left")
    shares: FloatArray = 1.0 - below_T / flat.size
    return shares


def profiles(
    verdicts: Sequence[MissionVerdict],
    scores: Mapping[str, ScoreTable],
    resamples: int = RESAMPLES,
) -> Profiles:
    """Panels of the missions with several scenarios, and one over all missions."""
    thresholds_T = np.linspace(0.0, 1.0, THRESHOLDS)
    usable: list[Scenarios] = []
    left_out: dict[str, str] = {}
    for verdict in verdicts:
        if verdict.mission not in scores:
            left_out[verdict.mission] = "no scores"
            continue
        found = scenarios_of(verdict, scores[verdict.mission])
        if isinstance(found, str):
            left_out[verdict.mission] = found
        elif len(found.seeds) < 2:
            left_out[verdict.mission] = "one seed"
        else:
            usable.append(found)
    rng_seed = verdicts[0].rng_seed if verdicts else 0
    panels: list[Panel] = []
    for one in usable:
        if len(one.names) < 2:
            left_out[one.mission] = "one scenario, its primary metric has no slices"
            continue
        lines = [
            _line(arm, [means_KS], thresholds_T, resamples, rng_seed)
            for arm, means_KS in one.arms.items()
        ]
        side = ", 1 - score" if one.turned else ""
        note = f"{len(one.names)} scenarios x {len(one.seeds)} seeds{side}"
        panels.append(Panel(title=one.mission, note=note, lines=tuple(lines)))
    if len(usable) > 1:
        panels.append(_together(usable, thresholds_T, resamples, rng_seed))
    order = [verdict.mission for verdict in verdicts if verdict.mission in left_out]
    return Profiles(
        thresholds_T=thresholds_T,
        panels=tuple(panels),
        left_out={mission: left_out[mission] for mission in order},
    )


def _together(
    usable: Sequence[Scenarios], thresholds_T: FloatArray, resamples: int, rng_seed: int
) -> Panel:
    lines = tuple(
        _line(label, [one.arms[arm] for one, arm in pairs], thresholds_T, resamples, rng_seed)
        for label, pairs in (
            ("treatments", [(one, one.treatment) for one in usable]),
            ("primary controls", [(one, one.control) for one in usable]),
        )
    )
    count = sum(len(one.names) for one in usable)
    names = ", ".join(one.mission for one in usable)
    note = f"{count} scenarios of {names}, missions weigh alike"
    return Panel(title="All missions", note=note, lines=lines)


def _line(
    label: str,
    strata: Sequence[FloatArray],
    thresholds_T: FloatArray,
    resamples: int,
    rng_seed: int,
) -> Line:
    """Profile and band of one arm; `strata` are its scenarios x seeds, one entry a mission."""
    share_T = np.mean([profile(means_KS, thresholds_T) for means_KS in strata], axis=0)
    drawn_BT = np.zeros((resamples, len(thresholds_T)))
    for at, means_KS in enumerate(strata):
        # The same seeds for every arm, as runs of one seed share their data.
        rng = np.random.default_rng([rng_seed, at])
        num_seeds = means_KS.shape[1]
        # A seed's own profile; a resample averages the profiles of the seeds that it drew.
        own_ST = np.array([profile(means_KS[:, [s]], thresholds_T) for s in range(num_seeds)])
        counts_BS = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), resamples)
        drawn_BT += counts_BS @ own_ST / num_seeds
    drawn_BT /= len(strata)
    tail = (1 - LEVEL) / 2
    low_T, high_T = np.quantile(drawn_BT, [tail, 1 - tail], axis=0)
    return Line(label=label, share_T=share_T, low_T=low_T, high_T=high_T)


def described(found: Profiles) -> str:
    """The profiles in words: the share of scenario-runs at three thresholds."""
    parts: list[str] = []
    for panel in found.panels:
        lines = [
            f"{line.label} "
            + ", ".join(
                f"{line.share_T[int(tau * (THRESHOLDS - 1))]:.0%} at {tau:g}"
                for tau in (0.5, 0.75, 0.9)
            )
            for line in panel.lines
        ]
        parts.append(f"{panel.title} ({panel.note}): {'; '.join(lines)}.")
    return " ".join(parts)


def profiles_figure(found: Profiles, columns: int = 2) -> Figure | None:
    """Step curves, one panel a mission; None where no mission has several scenarios."""
    if not found.panels:
        return None
    width = 10.4 if columns > 1 else 4.0
    # Names stand beside the curves, or below them where there is no room beside.
    names = 1.6 if columns > 1 else 0.0
    most = max(len(panel.lines) for panel in found.panels)
    below = 0.0 if names else 0.05 + 0.19 * math.ceil(most / 2)
    cell_w, cell_h = width / columns, 2.55 + below
    height = math.ceil(len(found.panels) / columns) * cell_h
    with style():
        figure = Figure(figsize=(width, height))
        for at, panel in enumerate(found.panels):
            x = (at % columns) * cell_w
            y = height - (at // columns + 1) * cell_h
            axes = figure.add_axes(
                (
                    (x + 0.5) / width,
                    (y + 0.5 + below) / height,
                    (cell_w - 0.62 - names) / width,
                    (cell_h - 1.0 - below) / height,
                )
            )
            _panel(axes, panel, found.thresholds_T)
            _names(axes, beside=bool(names))
    return figure


def _names(axes: Any, *, beside: bool) -> None:
    settings: dict[str, Any] = {"handlelength": 1.5, "borderaxespad": 0.0, "fontsize": 8.5}
    if beside:
        axes.legend(loc="upper left", bbox_to_anchor=(1.03, 1.0), **settings)
    else:
        axes.legend(loc="upper left", bbox_to_anchor=(-0.14, -0.3), ncols=2, **settings)


def _panel(axes: Any, panel: Panel, thresholds_T: FloatArray) -> None:
    for at, line in enumerate(panel.lines):
        main = at < 2
        colour = SERIES[at] if main else MUTED
        if main:
            axes.fill_between(
                thresholds_T, line.low_T, line.high_T, color=colour, alpha=0.18, linewidth=0
            )
        axes.plot(
            thresholds_T,
            line.share_T,
            color=colour,
            linewidth=2.0 if main else 1.2,
            linestyle="-" if main else _OTHERS[(at - 2) % len(_OTHERS)],
            label=shorten(line.label, 20),
            zorder=3 if main else 2,
        )
    reached = np.max([line.high_T for line in panel.lines], axis=0) > 0
    least = np.min([line.low_T for line in panel.lines], axis=0) < 1
    low = float(thresholds_T[np.argmax(least)]) if least.any() else 0.0
    high = float(thresholds_T[len(reached) - 1 - np.argmax(reached[::-1])])
    axes.set_xlim(max(0.0, low - 0.03), min(1.0, max(high + 0.03, low + 0.1)))
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.5, 1.0], ["0", "50 %", "100 %"])
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.tick_params(length=3, labelsize=8.5)
    axes.set_xlabel("score tau", size=8.5, labelpad=2)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    kept: dict[str, Any] = {"transform": axes.transAxes, "ha": "left", "va": "bottom"}
    axes.text(-0.08, 1.15, panel.title, weight="bold", **kept)
    axes.text(-0.08, 1.03, panel.note, size=8.5, color=MUTED, **kept)
