"""Mission A's smoke profile by workers that share each run: `shared_worker.py FOLDER STRATEGY...`.

For each strategy two forked processes with gloo (one for `packed`), the leader with a real ledger;
run by test_shared_group.py, which reads what the ledgers hold.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from bem.distributed import Share
from fleet.ledger.records import Lease
from fleet.ledger.writer import Ledger
from fleet.plan import plan_campaign
from fleet.provenance import code_version
from fleet.settings import RunPaths
from fleet.workers.job import WorkerJob
from fleet.workers.worker import Worker
from missions.registry import resolve


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


def main(folder: Path, strategy: str, rank: int) -> None:
    torch.set_num_threads(1)
    share = None
    overrides = ("resources.memory_mib=512",)
    if strategy != "packed":
        store = f"file://{folder}/store"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
        share = Share(strategy)  # type: ignore[arg-type]
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
        job=strategy,
        root=str(paths.root),
        spec_json=spec.model_dump_json(),
        catalog="missions.registry",
        submitted_at=time.time(),
        checkpoint_every_s=0.0 if share is not None else 5.0,
    )
    Worker(job, ledger, rank=rank, device=torch.device("cpu"), share=share).run()  # type: ignore[arg-type]
    if isinstance(ledger, Ledger):
        ledger.close()


if __name__ == "__main__":
    forking = multiprocessing.get_context("fork")
    for strategy in sys.argv[2:]:
        folder = Path(sys.argv[1]) / strategy
        folder.mkdir()
        ranks = [
            forking.Process(target=main, args=(folder, strategy, rank))
            for rank in ((0,) if strategy == "packed" else (0, 1))
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        if any(process.exitcode for process in ranks):
            sys.exit(f"{strategy} failed")
