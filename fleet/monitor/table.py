"""Tables for the terminal: where a launch stands, and its verdicts. Knows snapshots, no ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from fleet.monitor.snapshot import MissionView, Snapshot
from fleet.monitor.wording import clock
from fleet.settings import RunPaths

MARKS = {
    "PLANNED": ("·", "bright_black"),
    "LEASED": ("○", "cyan"),
    "RUNNING": ("●", "cyan"),
    "DONE": ("✓", "green"),
    "FAILED": ("✗", "bold red"),
    "PREEMPTED": ("↻", "yellow"),
    "STALE": ("?", "yellow"),
    "CANCELLED": ("-", "bright_black"),
}
LEGEND = "· planned  ○ leased  ● running  ✓ done  ✗ failed  ? stale  - cancelled"
PHASE_STYLE = {"failed": "bold red", "judged": "green", "cancelled": "yellow"}
VERDICT_STYLE = {
    "PROMOTE": "bold green",
    "REJECT": "yellow",
    "INCONCLUSIVE": "yellow",
    "INVALID": "bold red",
    "WITHHELD": "bright_black",
}


def render(snapshot: Snapshot, *, width: int, height: int) -> RenderableType:
    """The live table: one line an arm where the terminal is tall enough, else one a mission."""
    rows = sum(len(mission.arms) for mission in snapshot.missions)
    tall = rows + len(snapshot.missions) + len(_between_seeds(snapshot)) + 7 <= height
    table = _by_arm(snapshot, width) if tall else _by_mission(snapshot, width)
    done = sum(mission.done for mission in snapshot.missions)
    total = sum(mission.total for mission in snapshot.missions)
    head = Text.assemble(
        (f"{snapshot.run_id}", "bold"),
        f"  {snapshot.profile}  {done}/{total} runs  {clock(snapshot.elapsed_s)}",
    )
    trouble = []
    if snapshot.trouble:
        style = "yellow" if snapshot.interrupted else "bold red"
        trouble = [Text(snapshot.trouble, style=style, overflow="fold")]
    elif snapshot.silent_s is not None and snapshot.silent_s > 10 and not snapshot.over:
        head.append(f"  a worker has been silent for {snapshot.silent_s:.0f} s", style="yellow")
    legend = Text(LEGEND, style="bright_black")
    return Group(head, *trouble, table, *_between_seeds(snapshot), legend)


def _between_seeds(snapshot: Snapshot) -> list[Text]:
    """INTERIM figures of missions without a verdict, and missions that ended early."""
    lines = []
    for mission in snapshot.missions:
        if mission.stopped:
            lines.append(_one_line(f"{mission.mission} {mission.stopped}", "yellow"))
        if mission.interim is not None:
            lines.append(_one_line(f"{mission.mission} {mission.interim['text']}", "cyan"))
    return lines


def _one_line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _by_arm(snapshot: Snapshot, width: int) -> Table:
    table = _table()
    table.add_column("mission / arm", no_wrap=True, max_width=max(20, width - 46))
    table.add_column("seeds", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("elapsed", justify="right", no_wrap=True)
    table.add_column("left", justify="right", no_wrap=True)
    for mission in snapshot.missions:
        table.add_row(
            Text(f"{mission.mission} {mission.title}", style="bold", overflow="ellipsis"),
            Text(f"{mission.done}/{mission.total}"),
            _state(mission),
            clock(mission.elapsed_s),
            clock(mission.eta_s),
        )
        for arm in mission.arms:
            table.add_row(Text(f"  {arm.arm}", overflow="ellipsis"), _marks(arm.states), "", "", "")
    return table


def _by_mission(snapshot: Snapshot, width: int) -> Table:
    table = _table()
    table.add_column("mission", no_wrap=True, max_width=max(14, width - 52))
    table.add_column("runs", justify="right", no_wrap=True)
    table.add_column("by seed", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("elapsed", justify="right", no_wrap=True)
    table.add_column("left", justify="right", no_wrap=True)
    for mission in snapshot.missions:
        table.add_row(
            Text(f"{mission.mission} {mission.title}", overflow="ellipsis"),
            f"{mission.done}/{mission.total}",
            _marks(_worst_by_seed(mission)),
            _state(mission),
            clock(mission.elapsed_s),
            clock(mission.eta_s),
        )
    return table


def _worst_by_seed(mission: MissionView) -> tuple[str, ...]:
    """One state a seed: the one that most needs to be seen."""
    order = ("FAILED", "STALE", "PREEMPTED", "RUNNING", "LEASED", "PLANNED", "CANCELLED", "DONE")
    by_seed = zip(*(arm.states for arm in mission.arms), strict=True)
    return tuple(next(state for state in order if state in states) for states in by_seed)


def _table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), header_style="bright_black", show_edge=False)


def _marks(states: tuple[str, ...]) -> Text:
    text = Text()
    for state in states:
        mark, style = MARKS.get(state, (" ", ""))
        text.append(mark, style=style)
    return text


def _state(mission: MissionView) -> Text:
    if mission.verdict:
        return Text(mission.verdict, style=VERDICT_STYLE.get(mission.verdict, ""))
    return Text(mission.phase, style=PHASE_STYLE.get(mission.phase, ""))


def plain_line(before: Snapshot | None, now: Snapshot) -> list[str]:
    """Lines for a log: only what has changed since the last look."""
    old = {m.mission: m for m in before.missions} if before else {}
    lines = []
    if now.trouble and (before is None or not before.trouble):
        lines.append(f"[{clock(now.elapsed_s)}] {now.trouble}")
    for mission in now.missions:
        was = old.get(mission.mission)
        if mission.interim is not None and (was is None or was.interim != mission.interim):
            lines.append(f"[{clock(now.elapsed_s)}] {mission.mission} {mission.interim['text']}")
        if mission.stopped and (was is None or not was.stopped):
            lines.append(f"[{clock(now.elapsed_s)}] {mission.mission} {mission.stopped}")
        if was and (was.phase, was.done, was.failed, was.verdict) == (
            mission.phase,
            mission.done,
            mission.failed,
            mission.verdict,
        ):
            continue
        if was is None and mission.phase == "waiting":
            continue
        parts = [f"[{clock(now.elapsed_s)}]", mission.mission, mission.verdict or mission.phase]
        parts.append(f"{mission.done}/{mission.total} runs")
        if mission.failed:
            parts.append(f"{mission.failed} failed")
        if mission.eta_s:
            parts.append(f"about {clock(mission.eta_s)} left")
        lines.append(" ".join(parts))
    return lines


def print_snapshot(snapshot: Snapshot, paths: RunPaths) -> None:
    """`status` on the terminal."""
    console = Console()
    console.print(render(snapshot, width=console.width, height=10_000))
    for mission in snapshot.missions:
        if mission.error:
            console.print(f"{mission.mission}: {mission.error}", style="red", markup=False)
    if paths.report.is_file():
        console.print(f"report {paths.report}", soft_wrap=True, markup=False)
    elif not snapshot.over:
        console.print(f"live: python fleet.py watch {snapshot.run_id}", markup=False)
    console.print(f"logs   {paths.logs}", soft_wrap=True, markup=False)


def print_verdicts(document: Mapping[str, Any]) -> None:
    """The verdict table at the end of a launch."""
    console = Console()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bright_black")
    for column in ("mission", "verdict", "primary gate", "p (BH)", "runs", "wall"):
        table.add_column(column, overflow="fold", no_wrap=column in ("verdict", "runs", "wall"))
    for row in document["missions"]:
        table.add_row(
            Text(f"{row['mission']} {row['title']}"),
            Text(row["verdict"], style=VERDICT_STYLE.get(row["verdict"], "")),
            Text(row["measured"]),
            "" if row["p_bh"] is None else f"{row['p_bh']:.3g}",
            f"{row['done']}/{row['runs']}",
            clock(row["wall_s"]),
        )
    console.print(table)
    for failure in document["failures"][:10]:
        console.print(f"failed: {failure['run']}: {failure['error']}", style="red", markup=False)
    time_used = document["time"]
    console.print(
        f"wall {clock(time_used['wall_s'])}, of it Ray's start {time_used['ray_startup_s']:.0f} s; "
        f"workers used {time_used['worker_cpu_s']:.0f} CPU s"
        + (
            "" if (over := time_used["overhead"]) is None else f"; wall x slots is {over:.2f} of it"
        ),
        markup=False,
    )
    console.print(f"verdict table {document['verdict_digest'][:16]}", markup=False)
    console.print(f"report {document['report']}", soft_wrap=True, markup=False)
