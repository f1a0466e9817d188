"""Runs a whole mission in this process: the same steps as the fleet, without Ray or a ledger.

For tests, for mission authors (`python -m missions.local A --profile smoke`) and as the
reference that the fleet's worker must agree with.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from missions.errors import MissionError
from missions.judging import plan_of
from missions.protocol import Artifact, Mission, Pack, Prepared, Run
from missions.registry import load_mission, resolve
from missions.spec import MissionSpec
from missions.split_lock import LocalLock
from missions.workdir import WorkdirContext
from stats.scores import ScoreTable
from stats.sequential.interim import interim_view
from stats.sequential.stop import EarlyStop
from stats.verdict import ArmCost, MissionVerdict, judge


class LocalContext(WorkdirContext):
    """Context of one mission in one process; keeps the logged scalars and test reads in memory.

    The test split stays locked until `freeze` is called.
    """

    def __init__(self, spec: MissionSpec, workdir: Path, device: torch.device) -> None:
        super().__init__(spec, workdir, device)
        self._lock = LocalLock()
        self.logged: list[tuple[Run, int, dict[str, float]]] = []

    def log(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        self.logged.append((run, step, dict(metrics)))

    @property
    def lock(self) -> LocalLock:
        return self._lock

    def freeze(self) -> None:
        """Fixes the settings of every arm of the specification and so unlocks the test split."""
        self._lock.freeze(
            self._spec.id, {arm: self._spec.arm_digest(arm) for arm in self._spec.arms}
        )

    def should_stop(self) -> bool:
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalResult:
    """Everything one local mission left."""

    prepared: Prepared
    artifacts: Mapping[Run, Artifact]
    scores: ScoreTable
    verdict: MissionVerdict
    cpu_s: Mapping[str, float] = field(default_factory=dict)
    """CPU seconds by stage: prepare, train/<pack>, evaluate/<run>."""


def packs_of(spec: MissionSpec) -> tuple[Pack, ...]:
    """Packs of a mission in training order (see `MissionSpec.pack`)."""
    runs = [[Run(mission=spec.id, arm=arm, seed=seed) for arm in spec.arms] for seed in spec.seeds]
    if spec.pack == "seed":
        return tuple(Pack(name=f"{spec.id}-s{group[0].seed}", runs=tuple(group)) for group in runs)
    return tuple(Pack(name=run.name, runs=(run,)) for group in runs for run in group)


def early_end(
    spec: MissionSpec, tables: Sequence[ScoreTable], artifacts: Mapping[Run, Artifact]
) -> EarlyStop | None:
    """Whether the rules of the mission file end it with the seeds that are complete now."""
    done, more = divmod(len(tables), len(spec.arms))
    has_rules = spec.looks is not None or spec.futility is not None
    if more or done >= len(spec.seeds) or not has_rules or spec.withhold_verdict is not None:
        return None
    return interim_view(
        spec.id,
        spec.gates,
        ScoreTable.concat(tables),
        planned=spec.seeds,
        done=done,
        costs={run.arm: artifact.cost for run, artifact in artifacts.items()},
        futility=spec.futility,
        looks=spec.looks,
    ).stop


def run_local(
    mission: Mission, spec: MissionSpec, workdir: Path, *, device: torch.device | None = None
) -> LocalResult:
    """Prepares, trains, evaluates on test and judges one mission in this process."""
    ctx = LocalContext(spec, workdir, device or torch.device("cpu"))
    ctx.freeze()
    cpu_s: dict[str, float] = {}
    started = time.process_time()

    def lap(stage: str) -> None:
        nonlocal started
        now = time.process_time()
        cpu_s[stage] = now - started
        started = now

    prepared = mission.prepare(spec, ctx)
    lap("prepare")
    artifacts: dict[Run, Artifact] = {}
    tables: list[ScoreTable] = []
    stopped: EarlyStop | None = None
    for pack in packs_of(spec):
        artifacts.update(mission.train(spec, pack, ctx))
        lap(f"train/{pack.name}")
        for run in pack.runs:
            tables.append(mission.evaluate(spec, run, artifacts[run], "test", ctx))
            lap(f"evaluate/{run.name}")
        stopped = early_end(spec, tables, artifacts)
        if stopped is not None:
            break
    scores = ScoreTable.concat(tables)
    costs = {run.arm: artifact.cost for run, artifact in artifacts.items()}
    verdict = judge(
        plan_of(spec),
        scores,
        costs,
        rng_seed=spec.data_seed,
        leak_report=prepared.leak_report,
        stopped=stopped,
    )
    lap("judge")
    return LocalResult(
        prepared=prepared, artifacts=artifacts, scores=scores, verdict=verdict, cpu_s=cpu_s
    )


def _print_costs(costs: Mapping[str, ArmCost]) -> None:
    for arm, cost in costs.items():
        sys.stdout.write(
            f"  {arm:24s} trainable {cost.trainable_params:>9,d}"
            f"  forward FLOPs {cost.forward_flops:.4g}\n"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of `python -m missions.local`."""
    parser = argparse.ArgumentParser(description="Run one mission in this process.")
    parser.add_argument("mission")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--workdir", type=Path, default=None)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("error: --device cuda: torch sees no CUDA device here\n")
        return 4
    try:
        spec = resolve(options.mission, profile=options.profile, overrides=tuple(options.overrides))
        workdir = options.workdir or Path(tempfile.mkdtemp(prefix="bem-mission-"))
        device = torch.device(options.device)
        result = run_local(load_mission(options.mission), spec, workdir, device=device)
    except MissionError as error:
        sys.stderr.write(f"error: {error}\n")
        return 3
    means = result.scores.frame.groupby(["metric", "arm", "seed"])["value"].mean().unstack("seed")
    sys.stdout.write(f"{means.to_string(float_format='{:.3f}'.format)}\n")
    _print_costs({run.arm: artifact.cost for run, artifact in result.artifacts.items()})
    for stage in ("prepare", "train", "evaluate", "judge"):
        total = sum(value for key, value in result.cpu_s.items() if key.startswith(stage))
        sys.stdout.write(f"  {stage:10s} {total:8.1f} CPU s\n")
    sys.stdout.write(f"{result.verdict.verdict}: {'; '.join(result.verdict.reasons)}\n")
    sys.stdout.write(f"workdir {workdir}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
