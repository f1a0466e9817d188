"""Every mission trains one arm alone and scores it on dev, with the test split locked: what a
trial of a sweep asks of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from missions.local import LocalContext
from missions.protocol import Pack, Run
from missions.registry import load_mission, mission_files, resolve

SWEEP_SEED = 1000
torch.set_num_threads(1)


@pytest.mark.parametrize("mission_id", sorted(mission_files()))
def test_one_arm_is_scored_on_dev_without_a_look_at_test(mission_id: str, tmp_path: Path) -> None:
    spec, mission = resolve(mission_id, profile="smoke"), load_mission(mission_id)
    ctx = LocalContext(spec, tmp_path, torch.device("cpu"))
    mission.prepare(spec, ctx)
    arm = next(name for name, arm in spec.arms.items() if arm.role == "treatment")
    run = Run(mission=mission_id, arm=arm, seed=SWEEP_SEED)
    artifact = mission.train(spec, Pack(name="alone", runs=(run,)), ctx)[run]
    scores = mission.evaluate(spec, run, artifact, "dev", ctx)
    frame = scores.frame
    primary = next(gate for gate in spec.gates if gate.primary)
    assert primary.metric in set(frame["metric"])
    assert set(frame["arm"]) == {arm}
    assert set(frame["seed"]) == {SWEEP_SEED}
    assert np.isfinite(frame["value"]).all()
    assert ctx.lock.reads == ()
