"""The verdict table as rows, Markdown and JSON, and the way in which figures are written.

A figure that does not exist is an en dash, never 0 and never NaN.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from stats.family import counted as members
from stats.result import BootstrapInterval, GateResult, Interval
from stats.verdict import MissionVerdict

NONE = "–"  # noqa: RUF001


def figure(value: float | None, scale: str = "raw", *, signed: bool = False) -> str:
    """One number: two decimals of a percentage for fractions, four digits elsewhere."""
    if value is None:
        return NONE
    sign = "+" if signed else ""
    return f"{value * 100:{sign}.2f}" if scale == "fraction" else f"{value:{sign}.4g}"


def interval_text(
    interval: Interval | BootstrapInterval | None, scale: str, *, signed: bool = True
) -> str:
    """`[+0.90, +3.30]`."""
    if interval is None:
        return NONE
    low = figure(interval.low, scale, signed=signed)
    return f"[{low}, {figure(interval.high, scale, signed=signed)}]"


def error_text(value: float, scale: str) -> str:
    """A standard error in two significant digits."""
    return f"{value * 100:.2g}" if scale == "fraction" else f"{value:.2g}"


def p_text(value: float | None) -> str:
    """`< .0001` below that, four decimals elsewhere."""
    if value is None:
        return NONE
    return "< .0001" if value < 1e-4 else f"{value:.4f}".replace("0.", ".", 1)


def unit(gate: GateResult) -> str:
    """Unit of a gate's estimate."""
    if gate.scale != "fraction":
        return ""
    return "%" if gate.kind == "bound" else "pp"


def effect(gate: GateResult, name: str) -> float | None:
    """One effect size of a gate, over test items or their clusters."""
    return next((e.value for e in gate.effects if e.name == name and e.unit != "seeds"), None)


def verdict_rows(verdicts: Sequence[MissionVerdict]) -> list[tuple[str, ...]]:
    """Mission, comparison, metric, estimate with interval, p, p_BH, d_av, MDE, verdict."""
    rows: list[tuple[str, ...]] = []
    for verdict in verdicts:
        gate = verdict.primary
        against = f"{gate.treatment} vs {gate.versus}" if gate.versus else gate.treatment
        rows.append(
            (
                verdict.mission,
                against,
                gate.metric,
                estimate_text(gate),
                p_text(verdict.p_value),
                p_text(verdict.family.p_bh if verdict.family else None),
                effect_text(effect(gate, "d_av")),
                NONE
                if gate.mde is None
                else f"{figure(gate.mde, gate.scale)} {unit(gate)}".strip(),
                verdict_text(verdict),
            )
        )
    return rows


def estimate_text(gate: GateResult) -> str:
    """`+2.10 [+0.90, +3.30] pp`, without an interval where there is none."""
    if gate.estimate is None:
        return NONE
    signed = gate.kind != "bound"
    parts = [figure(gate.estimate, gate.scale, signed=signed)]
    if gate.interval is not None and not descriptive(gate):
        parts.append(interval_text(gate.interval, gate.scale, signed=signed))
    return " ".join([*parts, unit(gate)]).strip()


def distance_text(value: float | None, gate: GateResult) -> str:
    """A distance on a gate's scale, such as its detectable effect: `2.70 pp`."""
    if value is None:
        return NONE
    return f"{figure(value, gate.scale)} {'pp' if gate.scale == 'fraction' else ''}".strip()


def descriptive(gate: GateResult) -> bool:
    """True for gates that compare a figure with a limit and test nothing."""
    return gate.details.get("decide_on") == "point"


def seed_range(gate: GateResult) -> str:
    """`50.00 to 100.00`: smallest and largest value of a seed."""
    if len(gate.seed_estimates) < 2:
        return NONE
    low, high = min(gate.seed_estimates), max(gate.seed_estimates)
    return f"{figure(low, gate.scale)} to {figure(high, gate.scale)}"


def effect_text(value: float | None) -> str:
    """A standardised effect: two decimals with its sign."""
    return NONE if value is None else f"{value:+.2f}"


def verdict_text(verdict: MissionVerdict) -> str:
    """The verdict, and how far the plan was carried out where it ended early."""
    if verdict.stopped is None:
        return verdict.verdict
    seeds = f"{len(verdict.stopped.seeds)} of {verdict.stopped.planned} seeds"
    return f"{verdict.verdict} ({verdict.stopped.kind}, {seeds})"


def level_text(level: float) -> str:
    """`95 %`, or what a look before the end leaves of it."""
    return f"{level * 100:.4g} %"


HEADER = (
    "mission", "comparison", "metric", "estimate [interval]", "p", "p_BH", "d_av", "MDE", "verdict",
)  # fmt: skip


def footnote(verdicts: Sequence[MissionVerdict]) -> str:
    """What a reader needs to know to read the table alone."""
    sizes = ", ".join(
        f"{v.mission} {len(v.seeds)} x {v.num_examples:,}" for v in verdicts if v.num_examples
    )
    family = next((v.family for v in verdicts if v.family is not None), None)
    adjusted = (
        f"p_BH: Benjamini-Hochberg over {members(family.family)}, q = {family.q:g}"
        if family is not None
        else "p_BH: none, no mission of this run has a verdict to adjust"
    )
    levels = sorted({v.level for v in verdicts})
    level = ""
    if levels not in ([], [0.95]):
        level = f" at {', '.join(f'{v.mission} {level_text(v.level)}' for v in verdicts)}"
    resamples = sorted({v.resamples for v in verdicts})
    return (
        f"Estimate and interval{level}: two-way (seeds x examples) Satterthwaite t, primary gate. "
        f"S x N (seeds x test items): {sizes or NONE}. p: largest one-sided p of the required "
        f"gates (intersection-union). {adjusted}. d_av: Hedges-corrected, over test items. MDE: "
        f"smallest distance from the margin found with 80 % power. Bootstrap intervals elsewhere: "
        f"crossed BCa, B = {', '.join(f'{b:,}' for b in resamples) or NONE}, width calibrated to t."
    )


def counted(number: int, name: str) -> str:
    """`1 seed`, `5 seeds`."""
    return f"{number:,} {name}" if number == 1 else f"{number:,} {name}s"


def markdown_table(verdicts: Sequence[MissionVerdict]) -> str:
    """The verdict table with its reasons."""
    lines = [f"| {' | '.join(HEADER)} |", f"|{'|'.join('---' for _ in HEADER)}|"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in verdict_rows(verdicts)]
    lines += ["", footnote(verdicts), ""]
    for verdict in verdicts:
        reasons = _cell("; ".join(verdict.reasons))
        lines.append(f"- **{verdict.mission}: {verdict_text(verdict)}.** {reasons}")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text that ends no cell, starts no line and holds no tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def json_text(verdicts: Sequence[MissionVerdict]) -> str:
    """Everything that was found, for other programs."""
    data = {"verdicts": [verdict.to_dict() for verdict in verdicts]}
    return json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n"
