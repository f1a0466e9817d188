"""What each fault does, measured: runs the tests of faults and writes the table in docs/faults.md.

A row is a fault, what must hold, the tests that inject it and what they measured here. Nothing is
typed in: a row whose test was skipped or failed says so. Driver kills and the long soak are
recordings of their own (`driver_kills.py`, `soak.py`), read from `results/`.

    python benchmarks/fault_table.py            # about 20 minutes on two cores
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET  # our own pytest's file
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fleet.provenance import recorded  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
RECORD = RESULTS / "faults.json"
MIN_POINTS = 20
"""Kills of drivers below which the row says that nothing was recorded."""
PAGE = ROOT / "docs" / "faults.md"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    fault: str
    must: str
    tests: tuple[str, ...]
    """Test functions, as `file::function`; every case of one counts."""
    measured: str = ""
    """What to say, with the names of recorded figures in braces."""


FAULTS = "tests/faults/"
DRIVER, WORKER = FAULTS + "test_driver_faults.py::", FAULTS + "test_worker_faults.py::"
ROWS = (
    Row(
        fault="driver `kill -9` at 20 random points or more, resume",
        must="verdicts, promoted set and result rows of the calm run; 0 lost, 0 twice",
        tests=(
            DRIVER + "test_the_end_is_that_of_a_calm_run",
            DRIVER + "test_finished_runs_were_not_run_again",
        ),
        measured="{driver_kills}",
    ),
    Row(
        fault="worker `kill -9` in a step",
        must="back within 30 s, at most one interval of checkpoints lost, attempt counted",
        tests=(
            "tests/fleet/test_ray_launch.py::test_a_kill_in_a_step_is_recovered_in_time",
            WORKER + "test_kill_9_in_a_step",
        ),
        measured="a new worker after {worker_back_s} s (a first one takes {worker_start_s})",
    ),
    Row(
        fault="ledger or stats actor `kill -9`",
        must="rebuilt from disk, the same figures bit for bit",
        tests=(DRIVER + "test_the_end_is_that_of_a_calm_run",),
        measured="both killed: the next result after {actors_back_s} s",
    ),
    Row(
        fault="node lost",
        must="its runs move, others untouched",
        tests=(FAULTS + "test_cluster_nodes.py::test_the_runs_of_a_lost_node_move_and_no_others",),
        measured="at work on another node after {node_moved_s} s",
    ),
    Row(
        fault="disk full",
        must="exit 5, the ledger passes integrity_check, resume works after space is freed",
        tests=(
            DRIVER + "test_a_full_disk_ends_in_exit_5_with_a_ledger_that_is_whole",
            FAULTS + "test_disk_full.py::test_what_was_committed_stays_and_space_is_all_it_needs",
        ),
        measured="a full tmpfs and a limit on file sizes",
    ),
    Row(
        fault="checkpoint truncated, bit flipped, manifest missing",
        must="put aside, the one before it used, an alarm",
        tests=(WORKER + "test_a_damaged_checkpoint_is_put_aside",),
        measured="scores equal those of a calm run",
    ),
    Row(
        fault="loss NaN or infinite",
        must="stopped, FAILED (nonfinite), never promotable",
        tests=(WORKER + "test_a_loss_that_is_not_a_number_fails_its_run_alone",),
        measured="its run alone; verdict INVALID",
    ),
    Row(
        fault="worker out of memory",
        must="named as that; retried smaller only where the policy says so",
        tests=(
            WORKER + "test_memory_that_runs_out_together_is_enough_one_by_one",
            WORKER + "test_memory_that_is_never_enough_is_named",
            WORKER + "test_ray_that_kills_for_memory_is_named_and_tried_once_more",
        ),
        measured="a limit on the address space; Ray's own killing by its words only",
    ),
    Row(
        fault="worker hangs (SIGSTOP)",
        must="STALE after T, replaced after 2 T; slow but alive is left alone",
        tests=(FAULTS + "test_hung_worker.py::test_slow_is_not_dead_and_hung_is_replaced",),
        measured="T = {stale_after_s} s: killed after {hung_killed_s} s",
    ),
    Row(
        fault="SIGINT once, twice; SIGTERM; also while Ray or a mission starts",
        must="130 within 30 s with a checkpoint, nothing left running; at once; 143",
        tests=(
            "tests/fleet/test_ray_stop.py::test_one_signal_ends_in_order",
            "tests/fleet/test_ray_stop.py::test_a_signal_during_a_start_ends_in_order",
            "tests/fleet/test_ray_stop.py::test_the_second_signal_ends_at_once",
        ),
        measured="{SIGINT_s} s; {second_SIGINT_s} s after the second; {SIGTERM_s} s",
    ),
    Row(
        fault="preemption (SIGTERM to a worker, a drained node)",
        must="PREEMPTED, retry budget untouched, checkpoint just in time",
        tests=(
            "tests/fleet/test_ray_launch.py::test_sigterm_to_a_worker_preempts_it",
            WORKER + "test_sigterm_writes_a_checkpoint_and_is_not_counted",
            WORKER + "test_a_drained_node_is_left_in_time",
        ),
        measured="checkpoint {checkpoint_after_sigterm_s} s after the signal",
    ),
    Row(
        fault="second driver",
        must="refused within 2 s",
        tests=(DRIVER + "test_the_second_driver_is_refused_within_two_seconds",),
        measured="{second_driver_s} s",
    ),
    Row(
        fault="a result is delivered twice",
        must="one row; another value under the same key raises an alarm",
        tests=(
            "tests/fleet/ledger/test_ledger.py::test_same_key_same_value_once_and_other_value_alarms",
        ),
    ),
    Row(
        fault="15 minutes with a random kill every 20 s",
        must="the verdicts of the calm run",
        tests=(
            FAULTS + "test_soak.py::test_a_fleet_that_keeps_losing_processes_ends_as_a_calm_one",
        ),
        measured="{soak}; the test, shorter: {soak_short}",
    ),
)


def main() -> None:
    files = sorted({test.partition("::")[0] for row in ROWS for test in row.tests})
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=files, help="Measure this file again, keep the rest.")
    only = parser.parse_args().only
    found: dict[str, dict[str, Any]] = {}
    # A process for each file: Ray in one process keeps what the first test set up.
    for file in [only] if only else files:
        head = recorded()
        outcomes, figures = run([t for row in ROWS for t in row.tests if t.startswith(file)])
        found[file] = {"head": head, "outcomes": outcomes, "figures": figures}
    # Read only now: another file may have been measured meanwhile.
    before = json.loads(RECORD.read_text(encoding="utf-8")) if only else {}
    record = before | found
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(record), encoding="utf-8")
    failed = any("failed" in c for part in found.values() for c in part["outcomes"].values())
    sys.exit(1 if failed else 0)


def run(tests: list[str]) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Runs tests of one file in a pytest of its own."""
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={junit}"]
        command += ["-o", "junit_family=xunit1"]  # the older form keeps what tests record
        subprocess.run([*command, *dict.fromkeys(tests)], cwd=ROOT, check=False)
        return read(junit)


def read(junit: Path) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Outcomes of the cases by function, and the figures that tests recorded."""
    outcomes: dict[str, list[str]] = {}
    figures: dict[str, Any] = {}
    for case in ET.parse(junit).iter("testcase"):
        kinds = {child.tag for child in case}
        bad = "failed" if kinds & {"failure", "error"} else ""
        outcome = bad or ("skipped" if "skipped" in kinds else "passed")
        name = str(case.get("name")).partition("[")[0]
        outcomes.setdefault(name, []).append(outcome)
        for item in case.iter("property"):
            figures[str(item.get("name"))] = str(item.get("value"))
    return outcomes, figures


def recordings() -> dict[str, str]:
    """What the long recordings say and of which commit, or that there is none."""
    found = {"driver_kills": "not recorded", "soak": "not recorded"}
    kills = _record("driver_kills.json")
    if kills.get("num_points", 0) >= MIN_POINTS and "registered" in kills:
        found["driver_kills"] = (
            f"{kills['num_points']} points in {kills['num_runs']} runs: {kills['num_equal']} equal "
            f"to the calm one, {kills['lost']} lost, {kills['twice']} twice, "
            f"{kills['processes_left']} processes left ({_source(kills)})"
        )
    if soak := _record("soak.json"):
        each = ", ".join(f"{name} {count}" for name, count in sorted(soak["by_process"].items()))
        found["soak"] = (
            f"{soak['minutes']:g} min, {soak['num_kills']} kills ({each}) in "
            f"{soak['num_campaigns']} campaigns: {soak['num_equal']} equal to the calm one, "
            f"{soak['lost']} lost, {soak['twice']} twice ({_source(soak)})"
        )
    return found


def _record(name: str) -> dict[str, Any]:
    path = RESULTS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _source(record: dict[str, Any]) -> str:
    """When and with which code."""
    return f"{record['date']}, commit {record['commit']}{', changed' if record['dirty'] else ''}"


def _machine(head: dict[str, Any]) -> str:
    cores, load = head["hardware"]["cpus"], head["load_at_start"]
    return f"{_source(head)}, {cores} cores, load {load} when it began"


def page(record: dict[str, Any]) -> str:
    """The page, whole."""
    outcomes = {name: cases for part in record.values() for name, cases in part["outcomes"].items()}
    figures = {name: value for part in record.values() for name, value in part["figures"].items()}
    figures |= recordings()
    lines = [
        "# Faults",
        "",
        "Written by `python benchmarks/fault_table.py`, which injects each; what to do",
        "when one meets you stands in [troubleshooting.md](troubleshooting.md).",
        "",
        "Each file of tests ran by itself; recordings (`driver_kills.py`, `soak.py`) name theirs:",
        "",
        *(f"- `{file}`: {_machine(part['head'])}" for file, part in sorted(record.items())),
        "",
        "| fault | must | seen | measured |",
        "|---|---|---|---|",
    ]
    for row in ROWS:
        names = [test.rpartition("::")[2] for test in row.tests]
        cases = [outcome for name in names for outcome in outcomes.get(name, ["not run"])]
        counts = [f"{cases.count(kind)} {kind}" for kind in sorted(set(cases))]
        said = row.measured.format_map(_Said(figures))
        lines.append(f"| {row.fault} | {row.must} | {', '.join(counts) or 'recording'} | {said} |")
    return "\n".join(lines) + "\n"


class _Said(dict[str, Any]):
    """A figure that no test recorded is said to be missing."""

    def __missing__(self, key: str) -> str:
        return "(not measured)"


if __name__ == "__main__":
    main()
