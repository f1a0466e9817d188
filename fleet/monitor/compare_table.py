"""Two campaigns on the terminal. Knows a comparison, no ledger."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fleet.monitor import wording
from fleet.monitor.table import VERDICT_STYLE
from fleet.monitor.wording import clock
from fleet.reporting.compare import Comparison, GateChange


def print_comparison(found: Comparison) -> None:
    """What was the same, then a table a mission."""
    console = Console()
    for number, name in enumerate(found.runs):
        commit = found.commits[number][:12] or "no commit"
        text = f"{name}: {found.profiles[number]}, commit {commit}, {clock(found.wall_s[number])}"
        console.print(Text(text), style="bright_black")
    code = "the same code decides scores" if found.same_code else "the code is not the same"
    console.print(Text(f"{found.text}; {code}"))
    for mission in found.missions:
        head = Text(f"\n{mission.mission} {mission.title}  ", style="bold")
        for number, word in enumerate(mission.verdicts):
            head.append(" -> " if number else "", style="bright_black")
            head.append(word or "no verdict", style=VERDICT_STYLE.get(word or "", ""))
        console.print(head)
        same = {
            "mission file": mission.same_file,
            "data": mission.same_data,
            "scores": mission.same_scores,
        }
        text = ", ".join(f"{name} {'equal' if yes else 'not equal'}" for name, yes in same.items())
        console.print(Text(f"  {text}", style="bright_black"))
        if mission.gates:
            console.print(_table(mission.gates))


def _table(gates: tuple[GateChange, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 2), header_style="bright_black", show_edge=False)
    table.add_column("gate", overflow="fold")
    for name in ("first", "second", "change"):
        table.add_column(name, justify="right")
    table.add_column("results")
    for gate in gates:
        change = wording.number(gate.change, gate.scale, signed=True)
        change += wording.unit(gate.scale) if gate.change is not None else ""
        table.add_row(
            Text(gate.gate, style="bold" if gate.primary else ""),
            *(_side(gate, number) for number in (0, 1)),
            Text(f"{change}{' !' if gate.apart else ''}", style="yellow" if gate.apart else ""),
            " -> ".join(word or wording.NONE for word in gate.decisions),
        )
    return table


def _side(gate: GateChange, number: int) -> str:
    text = wording.number(gate.estimates[number], gate.scale, signed=True)
    interval = gate.intervals[number]
    if interval is None:
        return text
    return f"{text} {wording.span(interval[0], interval[1], gate.scale)}"
