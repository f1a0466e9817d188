"""What a budget can decide, for the terminal. Knows plans of gates, computes none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from fleet.judging.plan_stats import MissionStats
    from stats.planning.gates import GatePlan

WIDE = 110
"""Columns of a terminal from which standard deviations stand in the table, not below it."""

DEVIATIONS = "SD seed / item / rest"
STYLE = {"yes": "green", "no": "bold yellow", "unknown": "bright_black", "no test": "bright_black"}


def print_plans(plans: Sequence[MissionStats], *, profile: str, power: float) -> None:
    """`plan-stats` on the terminal: one table a mission."""
    console = Console()
    for plan in plans:
        console.print(
            f"{plan.mission} {plan.title}: {plan.seeds} seed{'s' * (plan.seeds != 1)} x "
            f"{plan.examples:,} test items (profile {profile})",
            style="bold",
            markup=False,
            highlight=False,
        )
        wide = console.width >= WIDE
        console.print(_table(plan, wide), markup=False)
        for line in [*([] if wide else _deviation_lines(plan)), *_lines(plan, power)]:
            console.print(line, markup=False, highlight=False)
        console.print()


def dry_run_line(plan: MissionStats) -> str | None:
    """The primary gate in a line for the launch plan; None where nothing can be said."""
    gate = plan.primary
    if gate.decides == "no test":
        return None
    others = [name for name in plan.undecided if name != gate.gate]
    more = f"; nor can it decide {', '.join(others)}" if others and gate.decides == "no" else ""
    if others and gate.decides == "yes":
        more = f"; it cannot decide {', '.join(others)}"
    if gate.decides == "unknown" and gate.mde is None:
        return f"{plan.mission} {gate.gate}: {gate.text}"
    if gate.decides == "unknown":
        return f"{plan.mission} {gate.gate}: {gate.text} ({gate.source})"
    answer = "can" if gate.decides == "yes" else "cannot"
    return (
        f"{plan.mission} {answer} decide {gate.gate} with {gate.power:.0%} power: {gate.text}"
        f"{more} ({gate.source})"
    )


def _table(plan: MissionStats, wide: bool) -> Table:
    table = Table(box=None, padding=(0, 2 if wide else 1, 0, 0), header_style="bright_black")
    for column, justify in (
        ("gate", "left"),
        ("margin", "right"),
        ("MDE", "right"),
        ("if true", "right"),
        ("power", "right"),
        ("decides", "left"),
        ("cheapest", "right"),
        *([(DEVIATIONS, "left")] if wide else []),
    ):
        table.add_column(
            column,
            justify=justify,  # type: ignore[arg-type]
            overflow="fold",
            max_width=10 if column == "power" and not wide else None,
        )
    for gate in plan.gates:
        name = Text(gate.gate, style="bold" if gate.primary else "" if gate.required else "dim")
        table.add_row(
            name,
            " ".join(_show(gate, margin) for margin in gate.margins),
            _show(gate, gate.mde, sign=False),
            _show(gate, gate.alternative),
            _powers(gate),
            Text(gate.decides, style=STYLE[gate.decides]),
            _cheapest(gate),
            *([_deviations(gate)] if wide else []),
        )
    return table


def _lines(plan: MissionStats, power: float) -> list[str]:
    lines = [f"variance from {plan.source}; {plan.run_cost_is}"]
    sources = {g.source for g in plan.gates if g.components is not None} - {plan.source}
    lines += [f"  {source}" for source in sorted(sources)]
    reasons: dict[str, list[str]] = {}
    for gate in plan.gates:
        if gate.mde is None or gate.decides in ("unknown", "no test"):
            reasons.setdefault(gate.text, []).append(gate.gate)
    lines += [f"  {', '.join(gates)}: {why}" for why, gates in reasons.items()]
    if plan.withheld:
        lines.append(f"  no verdict: {plan.withheld}")
    if plan.undecided:
        lines.append(
            f"this budget cannot decide with {power:.0%} power: {', '.join(plan.undecided)}"
        )
    elif all(gate.decides == "yes" for gate in plan.gates if gate.required):
        lines.append(f"this budget decides every required gate with {power:.0%} power")
    return lines


def _powers(gate: GatePlan) -> str:
    """Power of the test, and of the whole rule or of a refutation where they say something else."""
    if gate.test_power is None or gate.pass_power is None or gate.refute_power is None:
        return ""
    if gate.refute_power > gate.test_power:
        return f"FAIL {gate.refute_power:.0%}"
    text = f"{gate.test_power:.0%}"
    if gate.pass_power < gate.test_power - 0.005:
        text += f" ({gate.pass_power:.0%} with min_point)"
    return text


def _show(gate: GatePlan, value: float | None, *, sign: bool = True) -> str:
    if value is None:
        return ""
    factor, unit = (100.0, " pp") if gate.scale == "fraction" else (1.0, "")
    return f"{factor * value:{'+' if sign else ''}.3g}{unit}"


def _deviation_lines(plan: MissionStats) -> list[str]:
    known = [gate for gate in plan.gates if gate.components is not None]
    return [f"  {DEVIATIONS}, {gate.gate}: {_deviations(gate)}" for gate in known]


def _cheapest(gate: GatePlan) -> str:
    if gate.cheapest_seeds is None:
        # Searched for and not found is something else than not searched for.
        return "none" if gate.decides == "no" else ""
    return f"{gate.cheapest_seeds} x {gate.cheapest_examples:,}"


def _deviations(gate: GatePlan) -> str:
    if gate.components is None:
        return ""
    factor, unit = (100.0, " pp") if gate.scale == "fraction" else (1.0, "")
    parts = (gate.components.seed, gate.components.example, gate.components.residual)
    return " / ".join(f"{factor * math.sqrt(part):.3g}" for part in parts) + unit
