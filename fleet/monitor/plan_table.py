"""A resolved plan for `--dry-run`: runs, resources, expected time, and whether it fits here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from fleet.monitor.power_table import dry_run_line
from fleet.monitor.wording import clock
from fleet.plan import CampaignPlan
from fleet.policies import Node, place, preflight
from fleet.sweep.plan_lines import sweep_lines, sweep_plan

if TYPE_CHECKING:
    from fleet.judging.plan_stats import MissionStats


def plan_document(
    plan: CampaignPlan,
    *,
    slots: int,
    here: Node,
    power: Mapping[str, MissionStats],
    unchecked_bases: Sequence[str] = (),
) -> dict[str, Any]:
    """The plan as plain JSON data.

    Args:
        unchecked_bases: base models that only the launch itself looks at.
    """
    works = []
    for work in plan.works:
        spec = work.spec
        wanted = spec.resources
        works.append(
            {
                "mission": work.mission,
                "title": spec.title,
                "spec_hash": work.spec_hash,
                "base_model": spec.base_model,
                "arms": {name: arm.role for name, arm in spec.arms.items()},
                "arm_hashes": {run.arm: run.arm_hash for run in work.runs},
                "seeds": list(spec.seeds),
                "test_examples": spec.examples.test,
                "runs": len(work.runs),
                "packs": len(work.packs),
                "workers": work.job.workers,
                "per_worker": {
                    "cpus": wanted.cpus,
                    "gpus": wanted.gpus,
                    "memory_mib": wanted.memory_mib,
                },
                "expected_cpu_s": work.expected_cpu_s,
                "sweep": sweep_plan(spec),
                "sweep_lines": sweep_lines(spec),
                "gates": [gate.model_dump(mode="json") for gate in spec.gates],
                "parity": spec.parity.model_dump(mode="json"),
                "withhold_verdict": spec.withhold_verdict,
                "power": power[work.mission].to_dict() if work.mission in power else None,
                "power_line": (
                    dry_run_line(power[work.mission]) if work.mission in power else None
                ),
            }
        )
    problems = preflight([work.job for work in plan.works], [here])
    return {
        "run_id": plan.run_id,
        "profile": plan.profile,
        "code_version": plan.code_version,
        "missions": works,
        "runs": sum(len(work.runs) for work in plan.works),
        "expected_cpu_s": plan.expected_cpu_s,
        "expected_wall_s": plan.expected_wall_s(_side_by_side(plan, here, slots)),
        "slots": slots,
        "fits_here": not problems,
        "problems": problems,
        "unchecked_bases": list(unchecked_bases),
    }


def _side_by_side(plan: CampaignPlan, here: Node, slots: int) -> int:
    """Missions that run at once on this machine (at least one, for an estimate)."""
    jobs = [work.job for work in plan.works]
    count = 0
    while count < min(len(jobs), slots) and place(jobs[: count + 1], [here]) is not None:
        count += 1
    return max(1, count)


def _time_line(document: Mapping[str, Any]) -> str:
    """Runs and expected time; a mission file with 0 CPU seconds has never been measured."""
    runs = f"profile {document['profile']}: {document['runs']} runs"
    unknown = [w["mission"] for w in document["missions"] if not w["expected_cpu_s"]]
    if unknown:
        return f"{runs}; time not known: not measured in this profile for {', '.join(unknown)}"
    return (
        f"{runs}, about {document['expected_cpu_s']:.0f} CPU s of missions, about "
        f"{clock(document['expected_wall_s'])} on {document['slots']} worker slots here"
    )


def print_plan(document: dict[str, Any]) -> None:
    """The plan as a table."""
    console = Console()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bright_black")
    for column, justify in (
        ("mission", "left"),
        ("arms x seeds", "right"),
        ("packs", "right"),
        ("test items", "right"),
        ("per worker", "left"),
        ("CPU s", "right"),
    ):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for work in document["missions"]:
        need = work["per_worker"]
        gpus = f", {need['gpus']:g} GPU" if need["gpus"] else ""
        workers = f"{work['workers']} x " if work["workers"] > 1 else ""
        table.add_row(
            f"{work['mission']} {work['title']}",
            f"{len(work['arms'])} x {len(work['seeds'])} = {work['runs']}",
            str(work["packs"]),
            f"{work['test_examples']:,}",
            f"{workers}{need['cpus']:g} CPU{gpus}, {need['memory_mib'] / 1024:g} GiB",
            f"{work['expected_cpu_s']:.0f}" if work["expected_cpu_s"] else "?",
        )
    console.print(table)
    for work in document["missions"]:
        primary = next(gate for gate in work["gates"] if gate["primary"])
        versus = f" vs {primary['versus']}" if primary.get("versus") else ""
        console.print(
            f"{work['mission']} {primary['kind']}, {primary['metric']}: "
            f"{primary['treatment']}{versus}",
            markup=False,
            highlight=False,
        )
    for work in document["missions"]:
        for line in work["sweep_lines"]:
            console.print(line, markup=False, highlight=False)
    console.print(_time_line(document), markup=False, highlight=False)
    for work in document["missions"]:
        if work["power_line"]:
            console.print(work["power_line"], markup=False, highlight=False)
    withheld = sorted({w["withhold_verdict"] for w in document["missions"]} - {None})
    for reason in withheld:
        console.print(f"no verdict: {reason}", markup=False)
    if document["unchecked_bases"]:
        names = ", ".join(document["unchecked_bases"])
        console.print(f"base models that only the launch fetches and checks: {names}", markup=False)
    for problem in document["problems"]:
        console.print(f"does not fit here: {problem}", style="yellow", markup=False)
