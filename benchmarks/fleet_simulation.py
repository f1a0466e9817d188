"""Claim: the scheduling policies stay near the lower bound at 4,000 GPUs, and starve nobody.

    python benchmarks/fleet_simulation.py            # writes benchmarks/results/fleet_simulation.md

Four hundred missions of 25 packs each (10,000 packs; a pack holds a seed's runs), requests from a
quarter of a GPU to eight, one to eight workers, log-normal durations, one in ten depends on an
earlier one; 500 nodes of 8 GPUs and smaller clusters, calm and with failures (one a node in three
days) and preemptions (a spot node every six hours). Time is virtual; only the CPU seconds are real.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from fleet.policies import Job, Node, Request, urgent_first
from fleet.policies.simulated import Outcome, Rules, SimMission, Weather
from fleet.policies.simulation import simulate

RESULT = Path(__file__).parent / "results" / "fleet_simulation.md"
STORM = Weather(failure_every_s=3 * 86_400, preemption_every_s=6 * 3_600)
PATIENCE_S = 3_600.0


def nodes(count: int) -> list[Node]:
    """Half of them spot."""
    return [
        Node(
            name=f"n{i}",
            cpus=64,
            gpus=8,
            memory_mib=512_000,
            labels={"market": "spot" if i % 2 else "on-demand"},
        )
        for i in range(count)
    ]


def campaign(seed: int, missions: int = 400, packs: int = 25) -> list[SimMission]:
    """Missions in the order in which the plan starts them."""
    rng = np.random.default_rng(seed)
    made: dict[str, SimMission] = {}
    for i in range(missions):
        request = Request(
            cpus=4, gpus=float(rng.choice([0.25, 0.5, 1, 1, 2, 4, 8])), memory_mib=16_000
        )
        after = (f"m{rng.integers(0, i)}",) if i and rng.random() < 0.1 else ()
        workers = int(rng.choice([1, 2, 4, 8]))
        made[f"m{i}"] = SimMission(
            job=Job(name=f"m{i}", request=request, workers=workers, depends_on=after),
            pack_s=tuple(rng.lognormal(7, 1, size=packs)),
        )
    order = urgent_first(
        {name: sum(m.pack_s) for name, m in made.items()},
        {name: m.job.depends_on for name, m in made.items()},
    )
    return [made[name] for name in order]


def row(count: int, weather: Weather, patience_s: float) -> str:
    """One simulated launch as a line of the table."""
    started = time.process_time()
    found: Outcome = simulate(
        campaign(0),
        nodes(count),
        rng=np.random.default_rng(1),
        weather=weather,
        rules=Rules(patience_s=patience_s),
    )
    cpu_s = time.process_time() - started
    return (
        f"| {8 * count:,} | {'calm' if weather == Weather() else 'storm'} | "
        f"{'none' if patience_s == float('inf') else f'{patience_s:,.0f} s'} | "
        f"{found.makespan_s:,.0f} | {found.lower_bound_s:,.0f} | {found.ratio:.3f} | "
        f"{max(found.waits_s.values()):,.0f} | {found.finished_packs:,} + {found.failed_packs} | "
        f"{found.node_failures} + {found.preemptions} | {found.lost_work_s:,.0f} | {cpu_s:.1f} |"
    )


def main() -> None:
    """Simulates and writes the table."""
    lines = [
        "# Simulated fleet",
        "",
        "`python benchmarks/fleet_simulation.py`; ratio: makespan over the lower bound (the larger",
        "of total work over capacity and the longest chain). Patience: the wait after which nodes",
        "are kept for a mission. Waits: the longest from the moment a mission could have started.",
        "",
        "| GPUs | weather | patience | makespan s | bound s | ratio | longest wait s "
        "| packs done + failed | nodes failed + preempted | lost worker s | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    cases: list[tuple[int, Weather, float]] = [
        (500, Weather(), float("inf")),
        (100, Weather(), float("inf")),
        (100, Weather(), PATIENCE_S),
        (100, STORM, PATIENCE_S),
        (20, Weather(), float("inf")),
        (20, Weather(), PATIENCE_S),
    ]
    for count, weather, patience_s in cases:
        lines.append(row(count, weather, patience_s))
        sys.stderr.write(f"{lines[-1]}\n")
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
