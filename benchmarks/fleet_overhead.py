"""What the orchestration costs: many short runs, and a finished launch of real missions.

First part: 306 runs of fakes (the real contract, no work to speak of) in one launch with one worker
slot; what is left of the wall time between the first worker and the last result, less training and
evaluating, a run. Second part (`--of RUN`): wall seconds times slots over the CPU seconds of the
work of a finished launch, and where the rest went.

    python benchmarks/fleet_overhead.py                       # 306 runs, about two minutes
    python benchmarks/fleet_overhead.py --of runs/20261126-1  # a launch of yours
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fleet")]

from launched import Launched  # noqa: E402

from fleet.ledger.reader import LedgerReader  # noqa: E402
from fleet.provenance import recorded  # noqa: E402
from fleet.reporting.report import WORK_STAGES  # noqa: E402
from fleet.settings import RunPaths  # noqa: E402

RESULT = Path(__file__).resolve().parent / "results" / "fleet_overhead.json"
SEEDS = 102
WORK = ("train", "evaluate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--of", type=Path, metavar="RUN", help="Folder of a finished launch.")
    arguments = parser.parse_args()
    found: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    if arguments.of is None:
        with tempfile.TemporaryDirectory(prefix="bf-overhead-") as folder:
            found["many_short_runs"] = many_short_runs(Path(folder))
    else:
        found["launch"] = launch(RunPaths(root=arguments.of))
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


def many_short_runs(folder: Path) -> dict[str, Any]:
    """Three arms a seed, one slot, so nothing hides behind anything."""
    seeds = ",".join(str(seed) for seed in range(SEEDS))
    words = ["launch", "--missions", "F1", "--run-id", "many", "--cpus", "1", "--no-promote"]
    driver = Launched(folder, *words, "--set", f"seeds=[{seeds}]")
    started = time.monotonic()
    if driver.wait(900) != 0:
        raise SystemExit(driver.said)
    wall_s = time.monotonic() - started
    with LedgerReader(RunPaths(root=folder / "many").ledger) as reader:
        runs = len(reader.results())
        moves = reader._cx.execute("SELECT min(at), max(at) FROM moves").fetchone()
        work_s = sum(t.wall_s for t in reader.timings() if t.stage in WORK)
        prepare_s = sum(t.wall_s for t in reader.timings() if t.stage in ("prepare", "base"))
    span_s = moves[1] - moves[0]
    return recorded() | {
        "runs": runs,
        "wall_s": round(wall_s, 1),
        "first_lease_to_last_result_s": round(span_s, 1),
        "train_and_evaluate_s": round(work_s, 1),
        "orchestration_s_a_run": round((span_s - work_s) / runs, 4),
        "whole_launch_s_a_run": round((wall_s - work_s - prepare_s) / runs, 4),
    }


def launch(paths: RunPaths) -> dict[str, Any]:
    """What the launch's own report says of it, and what the slots did when they did not work."""
    if not (paths.report.parent / "verdicts.json").is_file():
        raise SystemExit(f"{paths.root}: no finished launch.")
    with LedgerReader(paths.ledger) as reader:
        meta = reader.meta()
        timings, attempts = reader.timings(), reader.attempts()
    result = json.loads((paths.root / "result.json").read_text(encoding="utf-8"))
    slots, wall_s = int(meta["slots"]), float(result["time"]["wall_s"])
    cpu_s = {s: sum(t.cpu_s for t in timings if t.stage == s) for s in sorted(WORK_STAGES)}
    held_s = sum((a.ended_at or a.started_at) - a.started_at for a in attempts)
    total_s = sum(cpu_s.values())
    return {
        "run": paths.run_id,
        "commit": meta["commit"],
        "hardware": meta["hardware"],
        "slots": slots,
        "wall_s": round(wall_s, 1),
        "work_cpu_s": {stage: round(value, 1) for stage, value in cpu_s.items()},
        "fleet_overhead": round(result["time"]["overhead"], 3),
        "slots_without_a_worker_s": round(wall_s * slots - held_s, 1),
        "workers_waiting_for_a_core_s": round(held_s - total_s, 1),
    }


if __name__ == "__main__":
    main()
