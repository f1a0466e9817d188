"""Sweeps on a real ledger with Ray left out: trials run in this process, in a thread as there."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_catalog import FakeMission

from fleet.driver.campaign import Campaign
from fleet.driver.ray_session import RaySession
from fleet.driver.workforce import CampaignMission
from fleet.ledger.writer import Ledger
from fleet.policies import Node
from fleet.settings import RunPaths
from fleet.sweep import only, tuning
from fleet.sweep.records import Trial
from fleet.sweep.trial import Bench
from fleet.sweep.tuning import TuneSweep
from fleet.workers.worker_ledger import LedgerClient

NODES = (Node(name="n", cpus=2, memory_mib=8000),)


_OPEN: list[Ledger] = []


class DirectLedger(LedgerClient):
    """The client of a ledger in this process; one call at a time, as the actor takes them."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(None)
        self._ledger = ledger
        self._guard = threading.Lock()

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        with self._guard:
            return getattr(self._ledger, method)(*arguments, **named)


def run_trials(sweep: TuneSweep, before: Callable[[Trial], None] = lambda trial: None) -> None:
    """What Ray Tune does for a sweep: one trial after the other, each a row of the ledger.

    Args:
        before: told of each trial; what it raises ends the sweep.
    """
    job, spec = sweep._job, sweep._spec
    bench = Bench(
        spec,
        FakeMission(spec.id),
        RunPaths(root=Path(job.root)).work(spec.id) / "sweep",
        code_version=job.code_version,
        device=torch.device("cpu"),
    )
    while not sweep._stop.is_set() and isinstance(trial := sweep._search.next(), Trial):
        before(trial)
        sweep._search.start(trial)
        row = bench.run(trial)
        sweep._ledger.call("record_trial", row)
        sweep._search.tell(row)
        sweep._tell(trial, row)


@contextlib.contextmanager
def no_ray(settings: Any) -> Iterator[RaySession]:
    try:
        yield RaySession(namespace="n", dashboard="", nodes=NODES, startup_s=0.0, local=True)
    finally:
        while _OPEN:  # the actor goes down with Ray
            _OPEN.pop().close()


def open_here(
    plan: Any, settings: Any, session: Any, stopper: Any, meta: Any, prepare: Any
) -> Campaign:
    """`open_campaign` with the ledger in this process."""
    _OPEN.append(Ledger(settings.paths.ledger))
    ledger = DirectLedger(_OPEN[-1])
    ledger.call(
        "begin_session",
        settings.session,
        pid=os.getpid(),
        process_started=0.0,
        host="h",
        command=settings.command,
        code=plan.code_version,
    )
    prepare(ledger)
    ledger.call("record_plan", plan, dict(meta))
    return Campaign(
        plan=plan,
        settings=settings,
        session=session,
        stopper=stopper,
        ledger=ledger,
        stats=None,
        missions={work.mission: CampaignMission(work=work) for work in plan.works},
        nodes=session.nodes,
    )


def leave_ray_out(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[TuneSweep, Trial], None]
) -> None:
    """`fleet.py sweep` in this process; `before` is told of each trial that is run."""
    monkeypatch.setattr(only, "ray_session", no_ray)
    monkeypatch.setattr(only, "open_campaign", open_here)
    monkeypatch.setattr(
        tuning.TuneSweep, "_tune", lambda self: run_trials(self, lambda trial: before(self, trial))
    )
