"""Two gloo processes train one run as one process does: losses, gradients and weights agree."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from bem.distributed import Share
from bem.errors import InvalidInputError, TrainingStopped
from bem.training import fit
from bem.training_checkpoint import StageCheckpoints

HERE = Path(__file__).resolve().parent
STRUCK_AT = 5
TOLERANCE = 2e-5
"""Relative, on losses and weights of float32 after 8 steps: sums are taken in another order."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    ended = subprocess.run(
        [sys.executable, str(HERE / "shared_run.py"), str(folder), str(STRUCK_AT)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


def left_by(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    return facts, load_file(folder / "weights.safetensors")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_shared_run_is_the_run_of_one_process(strategy: str, runs: Path) -> None:
    facts, weights = left_by(runs / strategy)
    one, one_weights = left_by(runs / "alone")
    assert facts["losses"] == pytest.approx(one["losses"], rel=TOLERANCE)
    assert facts["gradients"] == pytest.approx(one["gradients"], rel=1e-4, abs=1e-7)
    assert weights.keys() == one_weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, one_weights[name], rtol=TOLERANCE, atol=TOLERANCE)
    # The base is whole in each process under ddp, and halved under fsdp.
    whole = one["base_bytes_of_layers"]
    assert facts["base_bytes_of_layers"] == (whole if strategy == "ddp" else whole // 2)
    # Something was learnt, so there is something to compare.
    assert one["losses"][-1] < one["losses"][0]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_shared_run_goes_on_where_a_killed_one_stood(strategy: str, runs: Path) -> None:
    """One process was killed in step 5: the group that follows ends with the same bits."""
    facts, weights = left_by(runs / f"{strategy}-struck")
    calm, calm_weights = left_by(runs / strategy)
    assert facts["losses"] == calm["losses"]
    assert facts["gradients"] == calm["gradients"][STRUCK_AT:], "the steps before were not repeated"
    assert all(torch.equal(weights[name], tensor) for name, tensor in calm_weights.items())
    assert not (runs / f"{strategy}-struck" / "checkpoints-1").exists(), "the leader writes alone"
    assert facts["resumed_at"] == [STRUCK_AT]


def test_weights_that_are_not_finite_end_every_process_alike(runs: Path) -> None:
    """A checkpoint is due before each step, and only the leader would look at it: alone it would
    leave the other in a sum."""
    said = [(runs / "broken" / f"said-{rank}.txt").read_text() for rank in (0, 1)]
    assert said == [f"NonFiniteLossError: The loss of step {STRUCK_AT + 1} is nan."] * 2
    kept = sorted((runs / "broken" / "checkpoints-0").iterdir())
    assert kept[-1].name == f"step_{STRUCK_AT:08d}", "what is not finite is not written"


def test_a_share_needs_a_process_group() -> None:
    with pytest.raises(InvalidInputError, match=r"Strategy .ddp. needs torch\.distributed"):
        Share("ddp")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_group_on_gpus_trains_agrees_and_keeps_checkpoints(tmp_path: Path) -> None:
    """A group of one: gradients by NCCL, what is agreed on by gloo, as the fleet sets it up."""
    store = f"file://{tmp_path}/store"
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=store, rank=0, world_size=1)
    try:
        share = Share("ddp")
        assert not share.any(False)
        assert share.broadcast({"step": 3}) == {"step": 3}
        weight = torch.nn.Parameter(torch.ones(4, device="cuda"))

        def train(steps_until_stop: int) -> list[float]:
            kept = StageCheckpoints(
                tmp_path / "kept", key="k", every_s=0.0, quarantine=tmp_path / "q", alarm=print
            )
            asked = iter(range(100))
            with contextlib.suppress(TrainingStopped):
                result = fit(
                    lambda step: (weight - step).square().sum(),
                    [{"params": [weight], "lr": 0.1}],
                    steps=6,
                    should_stop=lambda: share.any(next(asked) >= steps_until_stop),
                    checkpoints=kept,
                    share=share,
                )
                return list(result.losses)
            return []

        assert train(3) == []
        with torch.no_grad():
            weight.zero_()
        resumed = train(100)
        assert len(resumed) == 6
        assert resumed[0] == 4.0, "the first loss is that of the weights before the stop"
    finally:
        dist.destroy_process_group()
