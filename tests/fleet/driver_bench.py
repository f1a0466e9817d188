"""A driver's campaign over a real ledger, without Ray: what its loop holds, for tests to set."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fake_catalog import document

from fleet.driver.campaign import Campaign
from fleet.driver.mission_job import JobThread
from fleet.driver.workforce import CampaignMission
from fleet.ledger.reader import LedgerReader
from fleet.ledger.writer import Ledger
from fleet.plan import plan_campaign
from fleet.policies import Job, Node, Request
from fleet.settings import RunPaths
from missions.spec import parse_spec

NODE = Node(name="here", cpus=2.0, gpus=0.0, memory_mib=4096.0)
ONE = Job(name="F1", request=Request(cpus=1.0, memory_mib=64.0))


class Client:
    """The ledger as the driver calls it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        return getattr(self._ledger, method)(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


@dataclass
class FakeSweep:
    """A sweep that runs until it is stopped and its test says that it ended."""

    stopped: threading.Event = field(default_factory=threading.Event)
    ended: bool = False
    outcome: Any = None
    error: BaseException | None = None

    @property
    def sweep(self) -> FakeSweep:
        return self

    def stop(self) -> None:
        self.stopped.set()


class DriverBench:
    """One campaign of F1 in a folder."""

    def __init__(self, root: Path, **fields: Any) -> None:
        self.paths = RunPaths(root=root)
        spec = parse_spec({**document("F1"), **fields}, "test")
        plan = plan_campaign([spec], run_id="r", profile="laptop", code_version="code")
        self.ledger = Ledger(self.paths.ledger)
        self.ledger.record_plan(plan, {})
        self.reader = LedgerReader(self.paths.ledger)
        self.mission = CampaignMission(work=plan.works[0])
        self.started: list[Job] = []
        self.campaign = Campaign(
            plan=plan,
            settings=SimpleNamespace(paths=self.paths),  # type: ignore[arg-type]
            session=SimpleNamespace(local=True),  # type: ignore[arg-type]
            stopper=SimpleNamespace(),  # type: ignore[arg-type]
            ledger=Client(self.ledger),  # type: ignore[arg-type]
            stats=None,
            missions={"F1": self.mission},
            nodes=(NODE,),
        )

    def group(self, name: str, **facts: Any) -> JobThread:
        """A worker group of the mission, as it would stand."""
        state = JobThread(mission="F1", name=name, job=ONE, started=time.monotonic())
        for key, value in facts.items():
            setattr(state, key, value)
        self.mission.jobs.append(state)
        return state

    def close(self) -> None:
        self.reader.close()
        self.ledger.close()
