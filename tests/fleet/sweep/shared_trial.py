"""One trial by two processes of which the second is killed: `shared_trial.py FOLDER`.

Forked, with gloo; what became of the leader's trial is written to FOLDER/leader.txt. Run by
test_shared_trial.py.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from fake_catalog import FakeMission, document

from bem.distributed import Share
from fleet.errors import SweepError
from fleet.sweep.records import Trial
from fleet.sweep.trial import Bench
from missions.protocol import Artifact, Context, Pack, Run
from missions.spec import MissionSpec, parse_spec

SWEEP = {
    "metric": "em",
    "trials": 3,
    "seeds": [100],
    "space": {"params.training.lr": {"kind": "loguniform", "low": 0.0005, "high": 0.5}},
    "arms": {"plain": {}},
    "untuned": {"treated": "nothing to tune", "extra": "nothing to tune"},
}


class Together(FakeMission):
    """Sums over the group in every step; its second process is killed before the third one."""

    def train(self, spec: MissionSpec, pack: Pack, ctx: Context) -> Mapping[Run, Artifact]:
        assert ctx.share is not None
        for step in range(5):
            if ctx.share.rank == 1 and step == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            ctx.share.total(torch.ones(()))
        return super().train(spec, pack, ctx)


def main(folder: Path, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    resources = {"workers": 2, "strategy": "ddp", "memory_mib": 256}
    spec = parse_spec({**document("F1"), "sweep": SWEEP, "resources": resources}, "test")
    at = Bench(
        spec,
        Together("F1"),
        folder / str(rank),
        code_version="code",
        device=torch.device("cpu"),
        share=Share("ddp"),
    )
    trial = Trial(arm="plain", number=1, rung=0, settings={"params.training.lr": 0.02})
    try:
        said = f"a row: {at.run(trial)}"
    except SweepError as error:
        said = f"SweepError: {error}"
    (folder / "leader.txt").write_text(said)


if __name__ == "__main__":
    forking = multiprocessing.get_context("fork")
    ranks = [forking.Process(target=main, args=(Path(sys.argv[1]), rank)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if [process.exitcode for process in ranks] != [0, -signal.SIGKILL]:
        sys.exit("the second process alone should be killed")
