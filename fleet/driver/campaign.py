"""What one driver has in its hands: the plan, Ray, the ledger, the missions and their jobs.

Data and the start of a worker group; when to start, settle or stop is written in `coordinator`,
`mission_end` and `campaign_end`.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

from fleet.driver.mission_job import end_jobs, start_job
from fleet.driver.ray_session import RaySession
from fleet.driver.signals import Stopper
from fleet.driver.workforce import CampaignMission
from fleet.ledger.reader import LedgerReader
from fleet.plan import CampaignPlan
from fleet.policies import Job, Node
from fleet.settings import LaunchSettings
from fleet.states import RunState
from fleet.workers.job import WorkerJob
from fleet.workers.worker_ledger import LedgerClient

POLL_S = 0.2


@dataclass(kw_only=True, slots=True)
class Campaign:
    """The state of one launch in its driver."""

    plan: CampaignPlan
    settings: LaunchSettings
    session: RaySession
    stopper: Stopper
    ledger: LedgerClient
    stats: Any
    """Handle of the stats actor."""
    missions: dict[str, CampaignMission]
    nodes: tuple[Node, ...]
    """As they stood a few seconds ago."""
    jobs_started: int = 0

    def start(self, mission: CampaignMission, job: Job, *, helps: bool = False) -> None:
        """Starts a worker group for a mission, or one that helps its groups."""
        self.jobs_started += 1
        # Fresh in every session: a name that Ray Train has seen would silently resume.
        session = self.settings.session[:8]
        name = f"{mission.work.mission}-{self.plan.run_id}-{session}-{self.jobs_started}"
        order = WorkerJob(
            mission=mission.work.mission,
            job=name,
            root=str(self.settings.paths.root),
            spec_json=json.dumps(mission.work.spec.model_dump(mode="json")),
            catalog=self.settings.catalog,
            submitted_at=time.time(),
            checkpoint_every_s=self.settings.checkpoint_every_s,
            storage=self.settings.storage,
        )
        mission.jobs.append(
            start_job(
                mission.work.mission,
                job,
                asdict(order),
                name=name,
                storage=self.settings.train_storage,
                helps=helps,
            )
        )

    def end_jobs(self) -> None:
        """Takes down the trainers that still run (after a stop or an error)."""
        jobs = [job for mission in self.missions.values() for job in mission.jobs]
        end_jobs(jobs, local=self.session.local)


def is_bad(reader: LedgerReader, name: str) -> bool:
    """Whether a mission has a run that is not as it should be at the end."""
    orders = reader.orders()
    return any(
        row.state is not RunState.DONE
        and not (
            row.state is RunState.CANCELLED
            and (name in orders.early or orders.cancelled(name, row.arm))
        )
        for row in reader.runs(name)
    )


def failed_missions(reader: LedgerReader) -> tuple[str, ...]:
    """Missions with a run that is not as it should be."""
    names = sorted(row.mission for row in reader.missions())
    return tuple(name for name in names if is_bad(reader, name))


def any_held(reader: LedgerReader) -> bool:
    """Whether a worker holds a run."""
    return any(state.is_held for states in reader.counts().values() for state in states)
