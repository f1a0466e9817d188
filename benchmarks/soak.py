"""Claim: a fleet that loses a process every 20 seconds for 15 minutes ends as a calm one does.

Launches fake missions (the real contract and real checkpoints, seconds of work) one campaign after
the other. Every `--every` seconds one of its processes, drawn from a seeded generator, is killed
with SIGKILL: a worker, the ledger's actor, the stats actor or the driver, which is then resumed.
Each campaign that comes to its end is compared with a calm launch: verdicts, promoted set, keys,
digests of scores, costs and figures. After the time is up the last campaign runs out undisturbed.
`tests/faults/test_soak.py` runs a short form of it.

    python benchmarks/soak.py --minutes 15 --every 20
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fleet")]

from launched import (  # noqa: E402
    Launched,
    Outcome,
    done_twice,
    launch_or_resume,
    launch_registering,
    left_behind,
    outcome,
    sessions,
)

from fleet.provenance import recorded  # noqa: E402
from fleet.settings import RunPaths  # noqa: E402

RESULT = Path(__file__).resolve().parent / "results" / "soak.json"
MISSIONS = ["--missions", "F1,F2,F3", "--cpus", "2"]
MISSIONS += ["--set", "params.steps=40", "--set", "params.step_s=0.05", "--set", "params.pack_s=1"]
MISSIONS += ["--set", "F2:params.effect=0.0", "--set", "F3:params.effect=0.4"]
VICTIMS = {
    "worker": "ray::RayTrainWorker",
    "ledger": "ray::Ledger",
    "stats": "ray::StatsService",
    "driver": None,
}
LIMIT_S = 900.0
"""The longest that a campaign may take once nobody disturbs it."""


@dataclass
class Soak:
    """What was done and seen."""

    kills: list[dict[str, Any]] = field(default_factory=list)
    campaigns: int = 0
    equal: int = 0
    lost: int = 0
    twice: int = 0
    processes_left: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--every", type=float, default=20.0, help="Seconds between two kills.")
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--seeds", type=int, default=8, help="Runs of each arm in a campaign.")
    parser.add_argument("--out", type=Path, default=RESULT, help="Where the record goes.")
    arguments = parser.parse_args()
    missions = [*MISSIONS, "--set", f"seeds={list(range(arguments.seeds))}"]
    rng = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="bf-soak-") as folder:
        started = time.monotonic()
        calm_paths = RunPaths(root=Path(folder) / "calm")
        driver = launch_registering(Path(folder), calm_paths, missions)
        if driver.wait(LIMIT_S) != 0:
            raise SystemExit(driver.said)
        calm_s = time.monotonic() - started
        calm = outcome(calm_paths)
        found = Soak()
        until = time.monotonic() + 60 * arguments.minutes
        while time.monotonic() < until:
            campaign(Path(folder), missions, calm, found, rng, until, arguments.every)
    document = recorded() | {
        "minutes": arguments.minutes,
        "every_s": arguments.every,
        "seed": arguments.seed,
        "seeds_an_arm": arguments.seeds,
        "num_kills": len(found.kills),
        "by_process": dict(collections.Counter(kill["process"] for kill in found.kills)),
        "num_campaigns": found.campaigns,
        "num_equal": found.equal,
        "lost": found.lost,
        "twice": found.twice,
        "processes_left": found.processes_left,
        "verdicts": calm.verdicts,
        "registered": sorted(f"{name}: {model}" for name, model in calm.registered),
        "verdict_digest": calm.digest,
        "calm_s": round(calm_s, 1),
        "kills": found.kills,
    }
    arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps({k: v for k, v in document.items() if k != "kills"}) + "\n")


def campaign(
    folder: Path,
    missions: list[str],
    calm: Outcome,
    found: Soak,
    rng: np.random.Generator,
    until: float,
    every_s: float,
) -> None:
    """One campaign from its launch to its end, hit while the time lasts."""
    paths = RunPaths(root=folder / f"run-{found.campaigns + 1}")
    driver = launch_or_resume(folder, paths, missions)
    while True:
        pause_until = time.monotonic() + every_s
        while time.monotonic() < min(pause_until, until) and driver.process.poll() is None:
            time.sleep(0.05)
        if driver.process.poll() is None and time.monotonic() < until:
            victim = kill(driver, rng)
            found.kills.append({"campaign": paths.run_id, "process": victim})
            if victim == "driver":
                driver = launch_or_resume(folder, paths, missions)
            continue
        code = driver.wait(LIMIT_S)
        break
    found.campaigns += 1
    if code != 0:  # recorded as not equal
        sys.stderr.write(f"{paths.run_id} ended with {code}:\n{driver.said}\n")
        return
    ours = outcome(paths)
    keys = [row[1] for row in ours.results]
    found.equal += ours == calm
    found.lost += len({row[1] for row in calm.results} - set(keys))
    found.twice += done_twice(paths)
    left = left_behind(sessions(paths))
    found.processes_left += len(left)
    sys.stderr.writelines(f"{paths.run_id} left {process}\n" for process in left)
    sys.stderr.write(f"{paths.run_id}: {len(found.kills)} kills, equal {ours == calm}\n")


def kill(driver: Launched, rng: np.random.Generator) -> str:
    """Kills one of the processes that are there, a kind as likely as the other; says which."""
    children: dict[str, list[psutil.Process]] = {}
    for process in psutil.Process(driver.process.pid).children(recursive=True):
        try:
            words = " ".join(process.cmdline())
        except psutil.Error:
            continue
        for name, title in VICTIMS.items():
            if title is not None and words.startswith(title):
                children.setdefault(name, []).append(process)
    kinds = sorted({*children, "driver"})
    victim = str(kinds[int(rng.integers(len(kinds)))])
    if victim == "driver":
        driver.kill()
    else:
        processes = children[victim]
        processes[int(rng.integers(len(processes)))].kill()
    return victim


if __name__ == "__main__":
    main()
