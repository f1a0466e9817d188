"""Carries out a campaign: admission, trainers, leases, verdicts, a clean end.

The one loop that acts. What to start, retry or give up is decided in `fleet.policies`; what
happened is in the ledger, and only there. Knows Ray and the ledger, no mission.
"""

from __future__ import annotations

import json
import signal
import threading
import time
import traceback as tracebacks
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fleet.between_seeds import SeedWatch
from fleet.cluster_nodes import foreign_holders, free_nodes
from fleet.errors import InterruptedBySignalError, StorageError, UnfitEnvironmentError
from fleet.keys import canonical_digest
from fleet.ledger.reader import LedgerReader
from fleet.mission_job import MAX_FAILURES, JobThread, cause_of, end_jobs, start_job
from fleet.plan import CampaignPlan
from fleet.policies import Job, admit, explain_wait, overdue, preflight
from fleet.ray_session import RaySession, ray_session
from fleet.settings import LaunchSettings
from fleet.signals import Stopper
from fleet.states import RunState
from fleet.verdicts import verdict_digest
from fleet.worker_ledger import LEDGER_ACTOR, STATS_ACTOR, LedgerClient
from fleet.workforce import (
    CampaignMission,
    choose_helped,
    note_waits,
    one_worker,
    our_holders,
    running_jobs,
)

POLL_S = 0.2
SWEEP_S = 5.0
ON_DECK = 1
"""Trainers that come up while others still hold the slots."""


OnTick = Callable[[LedgerReader, bool], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class CampaignResult:
    """How a launch ended."""

    verdicts: tuple[dict[str, Any], ...]
    """Verdicts as plain data, in order of mission id."""
    failed: tuple[str, ...]
    """Missions with a run that is not DONE."""
    digest: str
    """Of the verdict table: equal digests, equal tables."""
    wall_s: float


def run_campaign(
    plan: CampaignPlan,
    settings: LaunchSettings,
    *,
    meta: Mapping[str, Any],
    on_start: Callable[[RaySession], None] = lambda session: None,
    on_tick: OnTick = lambda reader, now: None,
) -> CampaignResult:
    """Runs every mission of the plan to its verdict.

    Args:
        meta: facts about the launch for the ledger.
        on_start: told once when Ray is up.
        on_tick: called a few times a second with a reader of the ledger, and with True where
            what it shows is the last.

    Raises:
        UnfitEnvironmentError: a mission can never fit, or Ray does not start.
        InterruptedBySignalError: SIGINT or SIGTERM; states are recorded.
    """
    started = time.monotonic()
    stopper = Stopper()
    with stopper.installed(), ray_session(settings) as session:
        if threading.current_thread() is threading.main_thread():
            stopper.install()
        problems = preflight([work.job for work in plan.works], session.nodes)
        if problems:
            raise UnfitEnvironmentError(" ".join(problems), go_on="python fleet.py doctor")
        on_start(session)
        campaign = _Campaign(plan, settings, session, stopper)
        try:
            campaign.open(meta)
            with LedgerReader(settings.paths.ledger) as reader:
                campaign.loop(reader, on_tick)
                return campaign.close(time.monotonic() - started)
        except KeyboardInterrupt:
            raise InterruptedBySignalError(
                "Stopped at once by a second signal; the states in the ledger are the last known.",
                signal_number=stopper.signal_number or signal.SIGINT,
                log=str(settings.paths.logs),
            ) from None
        finally:
            campaign.end_jobs()


class _Campaign:
    """The state of one launch in the driver."""

    def __init__(
        self, plan: CampaignPlan, settings: LaunchSettings, session: RaySession, stopper: Stopper
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._session = session
        self._stopper = stopper
        self._missions = {work.mission: CampaignMission(work=work) for work in plan.works}
        self._ledger: LedgerClient
        self._stats: Any
        self._swept = time.monotonic()
        self._jobs_started = 0
        self._nodes = session.nodes

    def open(self, meta: Mapping[str, Any]) -> None:
        """Brings the ledger and the stats actor up and records the plan."""
        import ray

        from fleet.ledger.writer import Ledger
        from fleet.stats_actor import StatsService

        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        # Finite retries of idempotent methods: a call that kills its actor must not do so for ever.
        lasting: dict[str, Any] = {
            "num_cpus": 0,
            "max_restarts": 5,
            "max_task_retries": 3,
            "scheduling_strategy": here,
        }
        actor = (
            ray.remote(Ledger)
            .options(name=LEDGER_ACTOR, **lasting)
            .remote(self._settings.paths.ledger, max_tries=self._settings.max_tries)
        )
        self._ledger = LedgerClient(actor)
        self._ledger.call("record_plan", self._plan, dict(meta))
        facts = {"dashboard": self._session.dashboard, "ray_startup_s": self._session.startup_s}
        self._ledger.call("set_meta", "session", facts)
        self._ledger.timing("", "startup", "ray", self._session.startup_s, time.process_time())
        self._stats = (
            ray.remote(StatsService)
            .options(name=STATS_ACTOR, **lasting)
            .remote(str(self._settings.paths.root))
        )
        for mission in self._missions.values():
            mission.watch = SeedWatch(mission.work.spec, self._ledger, self._stats)

    def loop(self, reader: LedgerReader, on_tick: OnTick) -> None:
        """Until every mission has its verdict, or a signal came."""
        while True:
            self._collect(reader)
            self._admit(reader)
            self._sweep(reader)
            over = all(mission.over for mission in self._missions.values())
            on_tick(reader, over)
            if self._stopper.signal_number is not None:
                self._stop(reader, on_tick)
            if over:
                return
            time.sleep(POLL_S)

    def close(self, wall_s: float) -> CampaignResult:
        """Judges the family and records the decisions."""
        import ray

        ordered = [self._missions[name].verdict for name in sorted(self._missions)]
        started = time.monotonic()
        verdicts = ray.get(self._stats.judge_family.remote(ordered))
        digest = verdict_digest(verdicts)
        for verdict in verdicts:
            self._ledger.call("decide", "verdict", verdict)
        self._ledger.call(
            "decide",
            "campaign",
            {
                "verdict_digest": digest,
                "verdicts": {v["mission"]: v["verdict"] for v in verdicts},
                "bodies": {v["mission"]: canonical_digest(v) for v in verdicts},
            },
        )
        self._ledger.timing("", "judge", "family", time.monotonic() - started, 0.0)
        if self._plan.code_version != self._settings.code_version_now():
            text = "the code of bem, missions or stats changed while the launch ran"
            self._ledger.call("event", "warning", "fleet", text)
            self._ledger.call("set_meta", "code_changed", True)
        self._ledger.call("set_meta", "wall_s", wall_s)
        self._ledger.call("checkpoint")
        self._ledger.call("close")
        with LedgerReader(self._settings.paths.ledger) as reader:
            failed = tuple(name for name in sorted(reader.counts()) if self._bad(reader, name))
        return CampaignResult(verdicts=tuple(verdicts), failed=failed, digest=digest, wall_s=wall_s)

    def end_jobs(self) -> None:
        """Takes down the trainers that still run (after a stop or an error)."""
        jobs = [job for mission in self._missions.values() for job in mission.jobs]
        end_jobs(jobs, local=self._session.local)

    # Starting

    def _admit(self, reader: LedgerReader) -> None:
        waiting = [m.work.job for m in self._missions.values() if not m.jobs and not m.over]
        running = running_jobs(self._missions.values(), reader)
        finished = frozenset(name for name, mission in self._missions.items() if mission.over)
        chosen = admit(waiting, running, self._nodes, finished=finished, on_deck=ON_DECK)
        for name in chosen:
            self._ledger.set_phase(name, "starting")
            self._start(self._missions[name], self._missions[name].work.job)
        if not waiting:
            self._reinforce(reader, running)

    def _reinforce(self, reader: LedgerReader, running: list[Job]) -> None:
        """Lends an idle slot to the mission with the longest queue."""
        chosen = choose_helped(self._missions, running, self._nodes, reader)
        if chosen is not None:
            mission = self._missions[chosen]
            self._ledger.event("info", chosen, "an idle slot joins this mission")
            self._start(mission, one_worker(mission.work.job))

    def _start(self, mission: CampaignMission, job: Job) -> None:
        from fleet.mission_job import as_config
        from fleet.worker import WorkerJob

        self._jobs_started += 1
        name = f"{mission.work.mission}-{self._plan.run_id}-{self._jobs_started}"
        order = WorkerJob(
            mission=mission.work.mission,
            job=name,
            root=str(self._settings.paths.root),
            spec_json=json.dumps(mission.work.spec.model_dump(mode="json")),
            catalog=self._settings.catalog,
            submitted_at=time.time(),
            checkpoint_every_s=self._settings.checkpoint_every_s,
        )
        mission.jobs.append(
            start_job(
                mission.work.mission,
                job,
                as_config(order),
                name=name,
                storage=str(self._settings.paths.root / "train"),
            )
        )

    # Ending

    def _collect(self, reader: LedgerReader) -> None:
        """Takes note of worker groups that are gone and of verdicts that are ready."""
        import ray

        for name, mission in self._missions.items():
            if mission.jobs and mission.watch and mission.verdict_ref is None:
                mission.watch.step(reader)
            for job in mission.jobs:
                if job.ended and not job.noted:
                    job.noted = True
                    self._note_end(name, job)
            if mission.over or not mission.jobs or any(not job.ended for job in mission.jobs):
                continue
            if mission.verdict_ref is None:
                if mission.watch and mission.watch.holds_verdict(reader):
                    continue
                if mission.stopped is None and self._goes_on(reader, name, mission):
                    continue
                self._settle(reader, name, mission)
                self._ledger.set_phase(name, "judging")
                mission.verdict_ref = self._stats.judge.options(name=f"judge {name}").remote(
                    name, stopped=mission.stopped
                )
            ready, _ = ray.wait([mission.verdict_ref], timeout=0)
            if ready:
                mission.verdict = ray.get(mission.verdict_ref)
                self._ledger.set_phase(name, "failed" if self._bad(reader, name) else "judged")

    def _bad(self, reader: LedgerReader, name: str) -> bool:
        """Whether the mission has a run that is not as it should be at the end."""
        fine = {RunState.DONE}
        if self._missions[name].stopped is not None:
            fine.add(RunState.CANCELLED)
        return bool(reader.counts()[name].keys() - fine)

    def _note_end(self, name: str, job: JobThread) -> None:
        wall_s = time.monotonic() - job.started
        self._ledger.timing(name, "job", job.name, wall_s, 0.0)
        reason = "the worker group ended"
        if job.error is not None:
            disk = cause_of(job.error, StorageError)
            if disk is not None:
                raise StorageError(str(disk), log=str(self._settings.paths.logs))
            lines = str(job.error).strip().splitlines() or [type(job.error).__name__]
            reason = f"the worker group failed: {lines[-1]}"
            self._ledger.event("error", name, reason)
        self._ledger.call("end_job", job.name, reason)

    def _goes_on(self, reader: LedgerReader, name: str, mission: CampaignMission) -> bool:
        """A worker that lost its lease leaves without an error; its queue needs a new group."""
        open_packs = [pack for pack in reader.packs(name) if pack.ended_at is None]
        if not open_packs or mission.jobs[-1].error or len(mission.jobs) > MAX_FAILURES:
            return False
        self._ledger.event("warning", name, f"{len(open_packs)} packs are open: a new worker group")
        self._start(mission, mission.work.job)
        return True

    def _settle(self, reader: LedgerReader, name: str, mission: CampaignMission) -> None:
        """Runs that nobody will take up again become failures with a reason."""
        left = [row for row in reader.runs(name) if not row.state.is_terminal]
        if left and mission.watch and mission.stopped is not None:
            self._ledger.call("cancel", [name], mission.watch.stop_text)
        elif left:
            error = next((job.error for job in mission.jobs if job.error), None)
            reason = f"the worker group ended with {len(left)} runs open" + (
                f": {type(error).__name__}" if error else ""
            )
            trace = "".join(tracebacks.format_exception(error)) if error else ""
            self._ledger.fail_mission(name, reason=reason, traceback=trace)

    def _sweep(self, reader: LedgerReader) -> None:
        if time.monotonic() - self._swept >= SWEEP_S:
            self._swept = time.monotonic()
            self._ledger.call("sweep_leases", stale_after_s=self._settings.stale_after_s)
            self._nodes = self._session.nodes_now()
            self._check_waits(reader)

    def _check_waits(self, reader: LedgerReader) -> None:
        """A worker group that waits for resources beyond the limit fails its mission, by name."""
        limit_s = self._settings.max_wait_s
        missions = self._missions.values()
        for thread, wait in note_waits(missions, reader, self._nodes, time.monotonic()):
            if overdue([wait], limit_s=limit_s):
                holders = our_holders(missions, reader) + foreign_holders(self._session.namespace)
                reason = explain_wait(wait, holders, free_nodes(), limit_s=limit_s)
                self._ledger.event("error", thread.mission, reason)
                self._ledger.call("request_stop", thread.mission, "waited too long for resources")
                self._ledger.fail_mission(thread.mission, reason=reason, traceback="")
                thread.give_up(reason)

    def _stop(self, reader: LedgerReader, on_tick: OnTick) -> None:
        """Asks the workers to leave, waits a little, records what is left as CANCELLED."""
        number = self._stopper.signal_number or signal.SIGINT
        word = signal.Signals(number).name
        names = [name for name, mission in self._missions.items() if not mission.over]
        for name in names:
            self._ledger.call("request_stop", name, f"stopped by {word}")
        deadline = time.monotonic() + self._settings.grace_s
        while time.monotonic() < deadline and self._held(reader):
            on_tick(reader, False)
            time.sleep(POLL_S)
        self._ledger.call("cancel", names, f"stopped by {word}")
        for name in names:
            self._ledger.set_phase(name, "cancelled")
        self._ledger.call("event", "warning", "fleet", f"stopped by {word}")
        self._ledger.call("checkpoint")
        on_tick(reader, True)
        raise InterruptedBySignalError(
            f"Stopped by {word}; finished runs are kept.",
            signal_number=number,
            log=str(self._settings.paths.logs),
            go_on=f"python fleet.py status {self._settings.paths.run_id}",
        )

    @staticmethod
    def _held(reader: LedgerReader) -> bool:
        return any(state.is_held for states in reader.counts().values() for state in states)
