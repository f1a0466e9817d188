"""Real training in small: steps through `bem.training.fit` and the real checkpoints, with faults.

What a fake learns depends on every step and on draws that move from step to step, so a training
that went on wrongly would show in its scores.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import signal
import time
from collections.abc import Iterator
from typing import Literal

import numpy as np
import psutil
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from bem.state_tree import TorchDraws
from bem.training import fit
from missions.protocol import Context, Pack, Run
from missions.seeding import torch_generator

MIB = 2**20


class Fault(BaseModel):
    """What goes wrong, where: in step `step` of run `arm`, `seed`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["none", "kill", "sigterm", "nan", "memory", "gpu_memory"] = "none"
    step: int = 0
    arm: str = "plain"
    seed: int = 1
    mib_a_run: int = 0
    """memory: what each run of the pack holds, under a limit that holds for one."""


def train_weight(
    run: Run, pack: Pack, steps: int, step_s: float, fault: Fault, ctx: Context
) -> str:
    """Trains one vector and returns the sha256 of it."""
    weight = nn.Parameter(torch.zeros(16))
    draw = torch_generator(run.seed, "fake", run.arm)
    marker = ctx.data_dir / f"{fault.kind}-{run.name}"
    strikes = fault.kind != "none" and (run.arm, run.seed) == (fault.arm, fault.seed)

    def loss(step: int) -> Tensor:
        time.sleep(step_s)
        value = ((weight - torch.randn(16, generator=draw)) ** 2).mean()
        if not strikes or step != fault.step:
            return value
        if fault.kind == "nan":
            return value * float("nan")
        if fault.kind == "memory":
            with limited(MIB * fault.mib_a_run * 2):
                np.ones(MIB * fault.mib_a_run * len(pack.runs), dtype=np.uint8)
        if fault.kind == "gpu_memory":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if fault.kind in ("kill", "sigterm") and not marker.exists():
            marker.write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL if fault.kind == "kill" else signal.SIGTERM)
        return value

    fit(
        loss,
        [{"params": [weight], "lr": 0.05}],
        steps=steps,
        log=lambda step, metrics: ctx.log(run, step, metrics),
        log_every=1,
        should_stop=ctx.should_stop,
        checkpoints=ctx.checkpoints("train", run),
        carried={"draw": TorchDraws(draw)},
    )
    return hashlib.sha256(weight.detach().numpy().tobytes()).hexdigest()


@contextlib.contextmanager
def limited(more: int) -> Iterator[None]:
    """This process may map no more than `more` bytes beyond what it has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
