"""How a worker group lost a worker, told to the ledger at once: died, or killed for memory.

Train calls this in its controller after every failure of a group. It is about to start the group
anew, so every attempt of the group has ended. Imports Ray Train: import it where a trainer is made.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from ray.exceptions import OutOfMemoryError, RayError
from ray.train import UserCallback

from fleet.errors import cause_of, last_line
from fleet.policies import Cause
from fleet.workers.worker_ledger import connect

log = logging.getLogger("fleet.workers.death_notes")


class _Ledger(Protocol):
    def call(self, method: str, *arguments: Any, **named: Any) -> Any: ...


class DeathNotes(UserCallback):  # type: ignore[misc]
    """Ends the attempts of a group that Train starts anew."""

    def __init__(self, job: str, namespace: str) -> None:
        self._job = job
        self._namespace = namespace

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        try:
            note(connect(self._namespace), self._job, worker_exceptions)
        except (RayError, ValueError) as error:
            # The group must start anew all the same; its next worker ends the attempts too.
            log.warning("%s: its failure was not noted: %s", self._job, error)


def note(ledger: _Ledger, job: str, errors: Mapping[int, Exception]) -> None:
    """Writes down why, the memory first: who was killed for it takes the others along."""
    killed = [cause_of(error, OutOfMemoryError) for error in errors.values()]
    memory = next((error for error in killed if error is not None), None)
    if memory is not None:
        said = " ".join(str(memory).split())
        ledger.call("end_job", job, f"killed by Ray for memory: {said}", Cause.OOM)
        return
    first = next(iter(errors.values()))
    ledger.call("end_job", job, f"the worker process died: {last_line(first)}", Cause.WORKER_DIED)
