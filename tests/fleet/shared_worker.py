"""Mission A's smoke profile by workers that share each run: `shared_worker.py FOLDER STRATEGY...`.

Of a strategy with `-struck` behind it a follower is killed in a step, and a second group goes on.

For each strategy two forked processes with gloo (one for `packed`), the leader with a real ledger;
run by test_shared_group.py, which reads what the ledgers hold.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from bem import training_checkpoint
from bem.distributed import Share
from fleet.ledger.records import Lease
from fleet.ledger.writer import Ledger
from fleet.plan import plan_campaign
from fleet.provenance import code_version
from fleet.settings import RunPaths
from fleet.workers.job import WorkerJob
from fleet.workers.worker import Worker
from missions.registry import resolve

Item = TypeVar("Item")
STRUCK_AT = 4
"""The last step of the experts, of which there are four; then five of the fused adapter."""


class Alive:
    """All that a follower says to the ledger."""

    def begin_attempt(self, attempt: str, **facts: object) -> None:
        """Reported."""

    def heartbeat(self, attempt: str) -> bool:
        return False

    def end_attempt(self, attempt: str, *why: object) -> None:
        """Gone."""

    def event(self, level: str, source: str, text: str) -> None:
        sys.stderr.write(f"{level} {source}: {text}\n")

    def lease(self, attempt: str) -> Lease | None:
        raise AssertionError("a follower leases nothing")


class Mortal(Share):
    """A share whose process is killed when it takes its part of a batch for the n-th time."""

    def __init__(self, strategy: Any, left: int) -> None:
        super().__init__(strategy)
        self._left = left

    def mine(self, items: Sequence[Item]) -> list[Item]:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().mine(items)


def main(folder: Path, strategy: str, rank: int, life: str) -> None:
    torch.set_num_threads(1)
    training_checkpoint.LARGEST_SHARE = math.inf  # steps so short that one a step is too many
    share = None
    overrides = ("resources.memory_mib=512",)
    if strategy != "packed":
        store = f"file://{folder}/store-{life}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
        struck = life == "struck" and rank == 1
        share = Mortal(strategy, STRUCK_AT) if struck else Share(strategy)  # type: ignore[arg-type]
        overrides = (*overrides, f"resources.strategy={strategy}", "resources.workers=2")
    spec = resolve("A", profile="smoke", overrides=overrides)
    paths = RunPaths(root=folder / "run")
    ledger: object = Alive()
    if rank == 0:
        plan = plan_campaign([spec], run_id="run", profile="smoke", code_version=code_version())
        ledger = Ledger(paths.ledger)
        ledger.record_plan(plan, {})
    else:
        while not paths.ledger.is_file():
            time.sleep(0.05)
    job = WorkerJob(
        mission="A",
        job=f"{strategy}-{life}",
        root=str(paths.root),
        spec_json=spec.model_dump_json(),
        catalog="missions.registry",
        submitted_at=time.time(),
        checkpoint_every_s=1e-9,
    )
    try:
        Worker(job, ledger, rank=rank, device=torch.device("cpu"), share=share).run()  # type: ignore[arg-type]
    finally:
        if isinstance(ledger, Ledger):
            ledger.end_job(job.job, "the worker group ended")
            ledger.close()


if __name__ == "__main__":
    forking = multiprocessing.get_context("fork")
    for word in sys.argv[2:]:
        strategy, _, struck = word.partition("-")
        folder = Path(sys.argv[1]) / word
        folder.mkdir()
        for life in ("struck", "next") if struck else ("only",):
            ranks = [
                forking.Process(target=main, args=(folder, strategy, rank, life))
                for rank in ((0,) if strategy == "packed" else (0, 1))
            ]
            for process in ranks:
                process.start()
            for process in ranks:
                process.join()
            if all(process.exitcode for process in ranks) != (life == "struck"):
                sys.exit(f"{word} failed: {life}")
