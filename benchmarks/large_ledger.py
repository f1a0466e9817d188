"""Claim: a ledger of 10,000 finished runs is looked at in half a second and resumed in five.

Fills a ledger with finished runs of fakes (5 missions, 20 arms, 100 seeds), every one leased, read
and handed over through the writer, and measures `status` as a process and what a resume does before
Ray starts: reading, comparing, planning, reopening.

    python benchmarks/large_ledger.py
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fleet")]

import fake_catalog  # noqa: E402

from fleet import provenance  # noqa: E402
from fleet.driver import changes  # noqa: E402
from fleet.driver.standing import look  # noqa: E402
from fleet.ledger.reader import LedgerReader  # noqa: E402
from fleet.ledger.records import RunResult, SplitTicket  # noqa: E402
from fleet.ledger.writer import Ledger  # noqa: E402
from fleet.monitor.snapshot import take  # noqa: E402
from fleet.plan import CampaignPlan, plan_campaign  # noqa: E402
from fleet.settings import RunPaths  # noqa: E402
from missions.spec import MissionSpec, parse_spec  # noqa: E402

RESULT = Path(__file__).resolve().parent / "results" / "large_ledger.json"
MISSIONS, ARMS, SEEDS = 5, 20, 100


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bf-large-") as folder:
        paths = RunPaths(root=Path(folder) / "large")
        document = measure(paths)
    RESULT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


def measure(paths: RunPaths) -> dict[str, Any]:
    """Builds the ledger and times what reads it."""
    specs = [spec(f"M{number}") for number in range(MISSIONS)]
    plan = plan_campaign(specs, run_id="large", profile="laptop", code_version="c")
    found: dict[str, Any] = {"runs": MISSIONS * ARMS * SEEDS}
    with timed(found, "fill_s"):
        last_ms, first_ms = fill(paths, plan)
    found["test_read_first_100_ms"], found["test_read_last_100_ms"] = first_ms, last_ms
    command = [sys.executable, "fleet.py", "status", "large", "--json"]
    command += ["--runs-dir", str(paths.root.parent)]
    walls, cpus = [], []
    for _ in range(9):
        started, before = time.monotonic(), os.times()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        walls.append(time.monotonic() - started)
        cpus.append(sum(after[2:4]) - sum(before[2:4]))
    found["status_process_wall_s"] = round(statistics.median(walls), 3)
    found["status_process_wall_least_s"] = round(min(walls), 3)
    found["status_process_cpu_s"] = round(statistics.median(cpus), 3)
    with LedgerReader(paths.ledger) as reader, timed(found, "snapshot_s"):
        take(reader, now=time.time())
    with timed(found, "decisions_verified_s"), LedgerReader(paths.ledger) as reader:
        found["decisions"] = len(reader.decisions())
    with timed(found, "resume_plan_s"):
        standing = look(paths)
        changes.compare({s.id: s for s in specs}, {s.id: s for s in specs})
        provenance.code_version()
        plan_campaign(
            list(standing.specs.values()), run_id="large", profile="laptop", code_version="c"
        )
        ledger = Ledger(paths.ledger)
        ledger.reopen("again")
        ledger.record_plan(plan, {})
        ledger.close()
    found["load"] = round(os.getloadavg()[0], 1)
    return found


def spec(name: str) -> MissionSpec:
    document = fake_catalog.document(name)
    ablations = {
        f"a{at}": {"role": "ablation", "adapter": "none", "params": {"at": at}}
        for at in range(ARMS - 3)
    }
    arms = document["arms"]
    for at, arm in enumerate(arms.values()):
        arm["params"] = {"first": at}
    document |= {"arms": arms | ablations, "seeds": list(range(SEEDS))}
    return parse_spec(document, "large")


def fill(paths: RunPaths, plan: CampaignPlan) -> tuple[float, float]:
    """Finishes every run; (last, first) median of a test read in ms."""
    ledger = Ledger(paths.ledger)
    ledger._cx.execute("PRAGMA synchronous=OFF")  # the disk is not what is measured
    ledger.record_plan(plan, {"slots": 2})
    took: list[float] = []
    for work in plan.works:
        ledger.record_data(work.mission, "d" * 64, {}, {})
        attempt = f"attempt-{work.mission}"
        ledger.begin_attempt(attempt, mission=work.mission, job="j", rank=0, host="h", pid=1)
        for pack in work.packs:
            ledger.lease(attempt)
            ledger.start_pack(attempt, pack.name)
            for run in pack.runs:
                started = time.perf_counter()
                ledger.open_test(
                    SplitTicket(
                        ticket=run.name,
                        run=run.name,
                        arm_hash=run.arm_hash,
                        attempt=attempt,
                        host="h",
                        pid=1,
                    )
                )
                took.append(time.perf_counter() - started)
                ledger.finish_run(
                    attempt,
                    RunResult(
                        run=run.name,
                        scores_parquet=b"scores",
                        scores_digest=run.name,
                        scores_rows=1,
                        artifact="/x",
                        cost_json="{}",
                        figures_json="{}",
                    ),
                )
            ledger.end_pack(attempt, pack.name)
        ledger.end_attempt(attempt)
    ledger.close()
    first, last = statistics.median(took[:100]), statistics.median(took[-100:])
    return round(1000 * last, 3), round(1000 * first, 3)


@contextlib.contextmanager
def timed(found: dict[str, Any], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    found[name] = round(time.monotonic() - started, 3)


if __name__ == "__main__":
    main()
