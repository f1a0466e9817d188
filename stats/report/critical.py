"""Critical-difference diagram over scenarios: Friedman's test and Nemenyi's distance.

Demsar 2006 (JMLR 7): arms are ranked within each block, here a scenario averaged over seeds; two
arms whose mean ranks lie closer than CD = q sqrt(k (k + 1) / (6 N)) are not told apart. Drawn
from ten blocks on, where the chi-square and the studentised range hold well enough. Scenarios of
one mission share their trained models, which the test takes for independent: it orders arms, and
no gate rests on it.

Shapes: N blocks, k arms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from stats.report.scenarios import scenarios_of
from stats.report.theme import INK, MUTED, SERIES, shorten, style
from stats.scores import FloatArray, ScoreTable
from stats.verdict import MissionVerdict

LEAST_BLOCKS = 10
LEAST_ARMS = 3
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """Mean ranks of a mission's arms, 1 is best."""

    mission: str
    blocks: int
    ranks: Mapping[str, float]
    """Arm -> mean rank, best first."""
    friedman_p: float
    distance: float
    """Nemenyi's critical difference."""
    alike: tuple[tuple[str, ...], ...]
    """Largest groups of arms that the test does not tell apart."""


def rank_blocks(mission: str, arms: Sequence[str], scores_Nk: FloatArray) -> Ranking:
    """Friedman and Nemenyi on blocks x arms; more is better."""
    # scipy.stats takes 0.5 s to import; only few reports need it.
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    blocks, count = scores_Nk.shape
    ranks_k = rankdata(-scores_Nk, axis=1).mean(axis=0)
    same = bool((scores_Nk == scores_Nk[:, :1]).all())
    p = 1.0 if same else float(friedmanchisquare(*scores_Nk.T).pvalue)
    quantile = float(studentized_range.ppf(1 - ALPHA, count, np.inf)) / math.sqrt(2)
    distance = quantile * math.sqrt(count * (count + 1) / (6 * blocks))
    order = sorted(range(count), key=lambda at: (ranks_k[at], arms[at]))
    ranks = {arms[at]: float(ranks_k[at]) for at in order}
    return Ranking(
        mission=mission,
        blocks=blocks,
        ranks=ranks,
        friedman_p=p,
        distance=distance,
        alike=_groups(ranks, distance),
    )


def rankings(
    verdicts: Sequence[MissionVerdict], scores: Mapping[str, ScoreTable]
) -> tuple[list[Ranking], dict[str, str]]:
    """Rankings of the missions that allow one, and the others with the reason why not."""
    found: list[Ranking] = []
    not_done: dict[str, str] = {}
    for verdict in verdicts:
        if verdict.mission not in scores:
            not_done[verdict.mission] = "no scores"
            continue
        one = scenarios_of(verdict, scores[verdict.mission])
        if isinstance(one, str):
            not_done[verdict.mission] = one
        elif len(one.names) < LEAST_BLOCKS or len(one.arms) < LEAST_ARMS:
            not_done[verdict.mission] = (
                f"{len(one.names)} {'scenario' if len(one.names) == 1 else 'scenarios'}, "
                f"{len(one.arms)} arms"
            )
        else:
            blocks_Nk = np.stack([means.mean(axis=1) for means in one.arms.values()], axis=1)
            found.append(rank_blocks(verdict.mission, tuple(one.arms), blocks_Nk))
    return found, not_done


def described(found: Sequence[Ranking]) -> str:
    """The diagrams in words."""
    return " ".join(
        f"{one.mission}: mean ranks over {one.blocks} scenarios "
        + ", ".join(f"{arm} {rank:.2f}" for arm, rank in one.ranks.items())
        + f"; critical difference {one.distance:.2f}, Friedman p {one.friedman_p:.3g}."
        for one in found
    )


def critical_figure(found: Sequence[Ranking], width: float = 10.4) -> Figure | None:
    """One axis of ranks a mission; bars join arms that are not told apart."""
    if not found:
        return None
    heights = [0.95 + 0.24 * len(one.ranks) + 0.12 * len(one.alike) for one in found]
    height = sum(heights)
    with style():
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.axis("off")
        top = 0.0
        for one, own in zip(found, heights, strict=True):
            _diagram(axes, one, top, width)
            top += own
    return figure


def _diagram(axes: Any, one: Ranking, top: float, width: float) -> None:
    count = len(one.ranks)
    left, right = 0.35, width - 0.35

    def place(rank: float) -> float:
        return left + (rank - 1) / (count - 1) * (right - left)

    axes.text(0.02, top + 0.12, one.mission, weight="bold", va="center", size=10.5)
    text = f"critical difference {one.distance:.2f}, Friedman p = {one.friedman_p:.3g}"
    axes.text(0.35, top + 0.12, text, color=MUTED, va="center", size=8.5)
    line = top + 0.55
    axes.plot([left, right], [line, line], color=INK, linewidth=1.0)
    for tick in range(1, count + 1):
        axes.plot([place(tick)] * 2, [line - 0.06, line], color=INK, linewidth=1.0)
        axes.text(place(tick), line - 0.15, str(tick), ha="center", va="center", size=8.5)
    below = line + 0.1
    for group in one.alike:
        ends = [place(one.ranks[group[0]]), place(one.ranks[group[-1]])]
        axes.plot(ends, [below, below], color=SERIES[1], linewidth=3.0, solid_capstyle="butt")
        below += 0.12
    for at, (arm, rank) in enumerate(one.ranks.items()):
        y = below + 0.14 + 0.24 * at
        x = place(rank)
        axes.plot([x, x], [line, y], color=MUTED, linewidth=0.9)
        on_left = x > (left + right) / 2
        axes.text(
            x - 0.06 if on_left else x + 0.06,
            y,
            f"{shorten(arm, 30)} {rank:.2f}",
            ha="right" if on_left else "left",
            va="center",
            size=9.0,
        )


def _groups(ranks: Mapping[str, float], distance: float) -> tuple[tuple[str, ...], ...]:
    arms, values = list(ranks), list(ranks.values())
    found: list[tuple[int, int]] = []
    for start in range(len(arms)):
        end = max(at for at in range(start, len(arms)) if values[at] - values[start] < distance)
        if end > start and not any(s <= start and end <= e for s, e in found):
            found.append((start, end))
    return tuple(tuple(arms[start : end + 1]) for start, end in found)
