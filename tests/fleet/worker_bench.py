"""One fake mission in a folder, with a real ledger and a real worker, without Ray.

    python worker_bench.py FOLDER PARAMS_JSON

works on it in a process of its own, which a test may kill or tell to go.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from fake_catalog import fake_spec

from fleet.judging.stats_actor import StatsService
from fleet.ledger.reader import LedgerReader
from fleet.ledger.writer import Ledger
from fleet.plan import plan_campaign
from fleet.states import RunState
from fleet.workers.job import WorkerJob
from fleet.workers.preemption import NOTICE, watch_sigterm
from fleet.workers.worker import Worker


class Bench:
    """One fake mission in a folder, with its ledger."""

    def __init__(self, root: Path, **params: Any) -> None:
        self.root = root
        self.spec = fake_spec("F1", **params)
        self.ledger = Ledger(root / "ledger.sqlite")
        plan = plan_campaign([self.spec], run_id="r", profile="laptop", code_version="code")
        self.ledger.record_plan(plan, {})
        self.reader = LedgerReader(root / "ledger.sqlite")

    def worker(self, ledger: Any = None, **more: Any) -> Worker:
        job = WorkerJob(
            mission="F1",
            job="job-1",
            root=str(self.root),
            spec_json=self.spec.model_dump_json(),
            catalog="fake_catalog",
            submitted_at=time.time(),
            checkpoint_every_s=0.05,
        )
        return Worker(job, ledger or self.ledger, rank=0, device=torch.device("cpu"), **more)

    def states(self) -> dict[str, RunState]:
        return {row.run: row.state for row in self.reader.runs()}

    def judge(self) -> dict[str, Any]:
        return StatsService(str(self.root)).judge("F1", 500)

    def close(self) -> None:
        self.reader.close()
        self.ledger.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    watch_sigterm()
    made = Bench(Path(sys.argv[1]), **json.loads(sys.argv[2]))
    made.worker(notice=NOTICE).run()
    made.close()
