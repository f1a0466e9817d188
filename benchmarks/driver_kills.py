"""Claim: a driver may be killed -9 at any moment; a resume ends as if nothing had happened.

Launches fake missions (the real contract, milliseconds of work), kills the driver at random points
drawn from a seeded generator, resumes, kills again, and at the end compares verdicts, promoted set,
keys, digests of scores, costs and figures with a calm launch. Half of the points are drawn over the
whole time of a driver, half over the time in which workers train.

    python benchmarks/driver_kills.py --points 24
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fleet")]

from launched import (  # noqa: E402
    Launched,
    done_twice,
    launch_or_resume,
    launch_registering,
    left_behind,
    outcome,
    sessions,
)

from fleet.ledger.database import is_begun  # noqa: E402
from fleet.ledger.reader import LedgerReader  # noqa: E402
from fleet.provenance import recorded  # noqa: E402
from fleet.settings import RunPaths  # noqa: E402

RESULT = Path(__file__).resolve().parent / "results" / "driver_kills.json"
MISSIONS = ["--missions", "F1,F2,F3", "--cpus", "2"]
MISSIONS += ["--set", "params.pack_s=0.4", "--set", "F2:params.effect=0.0"]
MISSIONS += ["--set", "F3:params.effect=0.4"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=24)
    parser.add_argument("--kills-a-run", type=int, default=4)
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--append", action="store_true", help="Add to what is recorded.")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="bf-kills-") as folder:
        document = measure(Path(folder), rng, arguments.points, arguments.kills_a_run)
    document = recorded() | document | {"seeds": [arguments.seed]}
    if arguments.append and RESULT.is_file():
        document = together(json.loads(RESULT.read_text(encoding="utf-8")), document)
    RESULT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps({k: v for k, v in document.items() if k != "points"}) + "\n")


def together(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Two recordings as one; the calm launches of both must agree."""
    for fact in ("verdict_digest", "registered"):
        if before.get(fact) != now[fact]:
            raise SystemExit(f"the calm launches of the two recordings differ: {fact}")
    sums = ("num_points", "num_runs", "num_equal", "lost", "twice", "processes_left")
    last = before["points"][-1]["run"]
    points = [{**point, "run": point["run"] + last} for point in now["points"]]
    phases = {*before["by_phase"], *now["by_phase"]}
    return {
        **now,
        "commit": ", ".join(dict.fromkeys([*before["commit"].split(", "), now["commit"]])),
        "dirty": before["dirty"] or now["dirty"],
        **{name: before[name] + now[name] for name in sums},
        "seeds": [*before["seeds"], *now["seeds"]],
        "by_phase": {
            phase: before["by_phase"].get(phase, 0) + now["by_phase"].get(phase, 0)
            for phase in sorted(phases)
        },
        "points": [*before["points"], *points],
    }


def measure(folder: Path, rng: np.random.Generator, points: int, per_run: int) -> dict[str, Any]:
    """Kills at `points` points, spread over several runs."""
    started = time.monotonic()
    calm_paths = RunPaths(root=folder / "calm")
    driver = launch_registering(folder, calm_paths, MISSIONS)
    driver.until("work", lambda: at_work(calm_paths), timeout_s=200)
    until_work_s = time.monotonic() - started
    if driver.wait(300) != 0:
        raise SystemExit(driver.said)
    calm_s = time.monotonic() - started
    calm = outcome(calm_paths)
    found: list[dict[str, Any]] = []
    equal, runs, lost, twice, left = 0, 0, 0, 0, 0
    while len(found) < points:
        runs += 1
        paths = RunPaths(root=folder / f"run-{runs}")
        point: dict[str, Any] | None = {}
        for _ in range(per_run):
            if len(found) == points:
                break
            in_work = bool(rng.integers(2))
            delay_s = float(rng.uniform(0, calm_s - until_work_s if in_work else calm_s))
            driver = launch_or_resume(folder, paths, MISSIONS)
            point = hit(driver, paths, delay_s, in_work)
            if point is None:
                break  # the run was over before the point came
            found.append({"run": runs, **point})
        if point is not None:  # a driver that was killed after its last word still has to promote
            driver = launch_or_resume(folder, paths, MISSIONS)
            code = driver.wait(300)
            if code != 0:
                raise SystemExit(f"run {runs} ended with {code}:\n{driver.said}")
        ours = outcome(paths)
        equal += ours == calm
        keys = [row[1] for row in ours.results]
        lost += len({row[1] for row in calm.results} - set(keys))
        twice += done_twice(paths)
        left += len(left_behind(sessions(paths)))
        sys.stderr.write(f"run {runs}: {len(found)} points, equal {ours == calm}\n")
    return {
        "num_points": len(found),
        "num_runs": runs,
        "num_equal": equal,
        "lost": lost,
        "twice": twice,
        "processes_left": left,
        "verdicts": calm.verdicts,
        "registered": sorted(f"{name}: {model}" for name, model in calm.registered),
        "verdict_digest": calm.digest,
        "calm_s": round(calm_s, 1),
        "by_phase": {
            phase: sum(point["phase"] == phase for point in found)
            for phase in sorted({point["phase"] for point in found})
        },
        "points": found,
    }


def hit(driver: Launched, paths: RunPaths, delay_s: float, in_work: bool) -> dict[str, Any] | None:
    """Kills the driver after the delay; None where it had ended by then."""
    if in_work:
        deadline = time.monotonic() + 200
        while not at_work(paths) and driver.process.poll() is None:
            if time.monotonic() > deadline:
                raise SystemExit(f"no work within 200 s:\n{driver.said}")
            time.sleep(0.02)
    until = time.monotonic() + delay_s
    while time.monotonic() < until and driver.process.poll() is None:
        time.sleep(0.01)
    if driver.process.poll() is not None:
        if driver.wait() != 0:
            raise SystemExit(driver.said)
        return None
    driver.kill()
    return {
        "delay_s": round(delay_s, 3),
        "after": "work began" if in_work else "the command",
        "phase": phase(paths),
        "results": count(paths),
    }


def phase(paths: RunPaths) -> str:
    """What the ledger knew when the driver was killed."""
    if not planned(paths):
        return "1 before the plan"
    with LedgerReader(paths.ledger) as reader:
        rows = reader.runs()
        judged = reader.bodies("verdict")
        seen = reader.seen()
    if judged:
        return "5 judged"
    if all(row.state.is_terminal for row in rows):
        return "4 before the verdicts"
    return "3 workers at work" if seen else "2 before the workers"


def planned(paths: RunPaths) -> bool:
    if not is_begun(paths.ledger):
        return False
    with LedgerReader(paths.ledger) as reader:
        return bool(reader.missions())


def at_work(paths: RunPaths) -> bool:
    """Whether a worker of the newest driver has reported."""
    if not planned(paths):
        return False
    with LedgerReader(paths.ledger) as reader:
        sessions = reader.sessions()
        attempts = reader.attempts()
    return any(
        attempt.ended_at is None and attempt.started_at >= sessions[-1].started_at
        for attempt in attempts
    )


def count(paths: RunPaths) -> int:
    if not planned(paths):
        return 0
    with LedgerReader(paths.ledger) as reader:
        return len(reader.results())


if __name__ == "__main__":
    main()
