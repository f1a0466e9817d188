"""Fake missions for the fleet's tests: the real contract, milliseconds of work, no base model.

A catalogue like `missions.registry`, reachable only by tests that put this folder on the path.
How a fake behaves stands in its `params`: when to raise, to hang, to be killed.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import yaml
from fake_training import Fault, train_weight
from pydantic import BaseModel, ConfigDict

from missions.errors import NotServableError, UnknownMissionError
from missions.export import ExportedModel, copy_file
from missions.protocol import (
    Artifact,
    Context,
    Mission,
    Pack,
    Prepared,
    ReportFigure,
    ReportTable,
    Run,
    Split,
)
from missions.seeding import numpy_generator
from missions.spec import MissionSpec, load_spec, parse_spec
from stats.scores import ScoreTable
from stats.verdict import ArmCost

IDS = ("F1", "F2", "F3")
BEST_RATE = 0.02
"""Learning rate at which a fake's dev score is highest."""


class FakeTraining(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: float = 0.002
    steps: int = 8
    width: int = 1
    """Changes the size of the arm."""


class FakeParams(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    effect: float = 0.2
    pack_s: float = 0.0
    """Seconds that a pack's training sleeps."""
    fail: Literal["none", "prepare", "train", "evaluate", "nonfinite", "extras"] = "none"
    fail_seed: int = 0
    kill_once: bool = False
    """The first attempt at the second seed kills its own process."""
    leak: int = 0
    training: FakeTraining = FakeTraining()
    trial_s: float = 0.0
    """Seconds that a training takes whose seed is none of the file's."""
    trouble: Literal["none", "disk", "memory", "dies"] = "none"
    """What such a training meets beside the file `mended`, from the second setting on."""
    reads_test: bool = False
    """Training looks at test scores."""
    steps: int = 0
    """Steps of real training, with real checkpoints; 0: none."""
    step_s: float = 0.0
    fault: Fault = Fault()


class FakeMission(Mission):
    params_model = FakeParams
    tunable = ("training",)
    strategies = ("packed", "ddp")

    def __init__(self, mission_id: str) -> None:
        self._id = mission_id

    id: ClassVar[str] = "fake"

    def prepare(self, spec: MissionSpec, ctx: Context) -> Prepared:
        params = FakeParams.model_validate(spec.params)
        if params.fail == "prepare":
            raise RuntimeError("the fake's prepare was told to fail")
        draws = numpy_generator(spec.data_seed, spec.id, "data").normal(size=spec.examples.test)
        (ctx.data_dir / "items.json").write_text(json.dumps(draws.tolist()))
        return Prepared(
            data_digest=f"{spec.data_seed:064d}",
            leak_report={"names": params.leak},
            summary={"test": spec.examples.test},
        )

    def train(self, spec: MissionSpec, pack: Pack, ctx: Context) -> Mapping[Run, Artifact]:
        params = FakeParams.model_validate(spec.params)
        marker = ctx.data_dir / "killed"
        if params.kill_once and pack.seed == spec.seeds[1] and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        until = time.monotonic() + params.pack_s
        while time.monotonic() < until and not ctx.should_stop():
            time.sleep(0.01)
        if params.pack_s and ctx.should_stop():
            raise IndexError("a training that was cut short has no last loss")
        if spec.withhold_verdict == "a trial of a sweep":
            time.sleep(params.trial_s)
            trials = ctx.data_dir.parent.parent
            if params.training.lr != FakeTraining().lr and not (trials / "mended").exists():
                meet(params.trouble)
            with (trials / "trained.txt").open("a") as stream:
                stream.write(f"{pack.runs[0].arm} {params.training.lr!r} {params.training.steps}\n")
        if params.fail == "train" and pack.seed == params.fail_seed:
            raise RuntimeError(f"the fake's train was told to fail at seed {pack.seed}")
        if ctx.share is not None:  # hangs where a worker of the group is not at work on this too
            assert float(ctx.share.total(torch.tensor(1.0))) == ctx.share.world
        found: dict[Run, Artifact] = {}
        for run in pack.runs:
            learned = ""
            if params.steps:
                learned = train_weight(run, pack, params.steps, params.step_s, params.fault, ctx)
            folder = ctx.artifact_dir(run)
            (folder / "adapter.json").write_text(json.dumps({"seed": run.seed, "is": learned}))
            if params.reads_test:
                size = ArmCost(arm=run.arm, trainable_params=1, adapter_params=1, forward_flops=1)
                self.evaluate(spec, run, Artifact(path=folder, cost=size), "test", ctx)
            for step in range(3):
                ctx.log(run, step, {"loss": 1.0 / (step + 1)})
            found[run] = Artifact(
                path=folder,
                cost=ArmCost(
                    arm=run.arm,
                    trainable_params=1000 * params.training.width,
                    adapter_params=1000 * params.training.width,
                    forward_flops=1e6,
                ),
                figures={"final_loss": 1 / 3, "never_varied": float("nan")},
            )
        return found

    def evaluate(
        self, spec: MissionSpec, run: Run, artifact: Artifact, split: Split, ctx: Context
    ) -> ScoreTable:
        params = FakeParams.model_validate(spec.params)
        if params.fail == "evaluate" and run.seed == params.fail_seed and run.arm == "treated":
            raise RuntimeError("the fake's evaluate was told to fail")
        items = np.array(json.loads((ctx.data_dir / "items.json").read_text()))
        adapter = json.loads((Path(artifact.path) / "adapter.json").read_text())
        learned = [adapter["is"]] if adapter["is"] else []
        rng = numpy_generator(adapter["seed"], spec.id, run.arm, split, *learned)
        effect = params.effect if run.arm == "treated" else 0.0
        values = (items + rng.normal(size=items.size) + 2 * effect > 0).astype(float)
        if split == "dev":
            # The nearer the rate is to the best one, and the longer the training, the better.
            distance = abs(np.log10(params.training.lr / BEST_RATE))
            values = np.full(items.size, params.training.steps / 10 - distance)
        if params.fail == "nonfinite" and run.seed == params.fail_seed:
            values[0] = np.nan
        return ScoreTable.from_columns(
            arm=run.arm,
            seed=run.seed,
            example_id=[f"{split}-{at:04d}" for at in range(items.size)],
            metric="em",
            value=values,
        )

    def export(
        self, spec: MissionSpec, run: Run, artifact: Artifact, folder: Path, ctx: Context
    ) -> ExportedModel:
        if run.arm == "extra":
            raise NotServableError(f"Mission {spec.id}, arm '{run.arm}': a fake yardstick.")
        copy_file(artifact.path / "adapter.json", folder / "adapter.json")
        return ExportedModel(kind="memory", base_model=None, base_digest=None)

    def report_extras(
        self, spec: MissionSpec, ctx: Context, artifacts: Mapping[Run, Artifact], scores: ScoreTable
    ) -> tuple[ReportTable | ReportFigure, ...]:
        if FakeParams.model_validate(spec.params).fail == "extras":
            raise RuntimeError("the fake's extras were told to fail")
        rows = tuple((run.name, len(scores.select(arms=[run.arm]))) for run in artifacts)
        return (
            ReportTable(title="Runs", caption="of the fake", columns=("run", "rows"), rows=rows),
            ReportFigure(
                title="Curve",
                caption="of the fake",
                x_label="step",
                y_label="loss",
                lines={"treated": ((0.0, 1.0, 2.0), (1.0, 0.5, 0.3))},
            ),
        )


def meet(trouble: str) -> None:
    """Nothing that the settings are to blame for."""
    if trouble == "disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    if trouble == "memory":
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    if trouble == "dies":
        os.kill(os.getpid(), signal.SIGKILL)


def load_mission(mission_id: str) -> Mission:
    if mission_id not in IDS:
        raise UnknownMissionError(f"Unknown mission {mission_id!r}. Known: {', '.join(IDS)}.")
    return FakeMission(mission_id)


def document(mission_id: str, **params: Any) -> dict[str, Any]:
    """A fake's mission file as plain data."""
    return {
        "id": mission_id,
        "title": f"Fake {mission_id}",
        "hypothesis": "The treated arm scores higher.",
        "claim": "none",
        "estimand": "difference in accuracy",
        "seeds": [0, 1, 2],
        "examples": {"train": 10, "dev": 10, "test": 200},
        "arms": {
            "treated": {"role": "treatment", "adapter": "none"},
            "plain": {"role": "control", "adapter": "none"},
            "extra": {"role": "ablation", "adapter": "none"},
        },
        "params": params,
        "gates": [
            {
                "id": "better",
                "kind": "superiority",
                "metric": "em",
                "treatment": "treated",
                "versus": "plain",
                "primary": True,
            },
            {
                "id": "ablated",
                "kind": "superiority",
                "metric": "em",
                "treatment": "treated",
                "versus": "extra",
                "required": False,
            },
        ],
        "parity": {"pairs": [["treated", "plain"]]},
        "resources": {"memory_mib": 256, "expected_cpu_s": 2.0},
    }


def resolve(
    mission_id: str, *, profile: str = "laptop", overrides: tuple[str, ...] = ()
) -> MissionSpec:
    """Like `missions.registry.resolve`; `--set` works as it does there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mission.yaml"
        path.write_text(yaml.safe_dump(document(mission_id)))
        return load_spec(path, overrides=overrides)


def fake_spec(mission_id: str = "F1", **params: Any) -> MissionSpec:
    """The resolved specification of a fake."""
    return parse_spec(document(mission_id, **params), "fake")
