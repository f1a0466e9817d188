"""The lock on the test split inside a worker: asks the ledger, which decides and records.

Knows the ledger through its port only.
"""

from __future__ import annotations

import os
import platform
import uuid

from fleet.ledger.records import SplitTicket
from fleet.workers.worker_ledger import WorkerLedger
from missions.protocol import Run
from missions.split_lock import SplitLock


class LedgerLock(SplitLock):
    """Every read of the test split by one attempt."""

    def __init__(self, ledger: WorkerLedger, attempt: str) -> None:
        self._ledger = ledger
        self._attempt = attempt

    def open_test(self, *, mission: str, arm: str, seed: int, arm_hash: str) -> None:
        self._ledger.open_test(
            SplitTicket(
                ticket=uuid.uuid4().hex,
                run=Run(mission=mission, arm=arm, seed=seed).name,
                arm_hash=arm_hash,
                attempt=self._attempt,
                host=platform.node(),
                pid=os.getpid(),
            )
        )
