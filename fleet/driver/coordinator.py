"""Carries out a campaign: admission, worker groups, requests from outside, a clean end.

The one loop that acts. What to start, retry or give up is decided in `fleet.policies`; what
happened is in the ledger, and only there. Knows Ray and the ledger, no mission.
"""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil

from fleet.driver import driver_requests, leftovers
from fleet.driver.between_seeds import SeedWatch
from fleet.driver.campaign import POLL_S, Campaign
from fleet.driver.campaign_end import CampaignResult, OnTick, close, stop
from fleet.driver.cluster_nodes import foreign_holders, free_nodes
from fleet.driver.mission_end import collect, needs_no_worker
from fleet.driver.ray_session import RaySession, ray_session
from fleet.driver.signals import Stopper
from fleet.driver.workforce import (
    CampaignMission,
    choose_helped,
    groups_of,
    note_waits,
    one_worker,
    our_holders,
    running_jobs,
)
from fleet.errors import InterruptedBySignalError, UnfitEnvironmentError
from fleet.ledger.reader import LedgerReader
from fleet.mirror import mirrored
from fleet.monitor.observability import Observability
from fleet.plan import CampaignPlan
from fleet.policies import Cause, admission, explain_wait, overdue, preflight, startable
from fleet.settings import LaunchSettings
from fleet.sweep import stage
from fleet.sweep.driving import check_trials
from fleet.workers.worker_ledger import LEDGER_ACTOR, STATS_ACTOR, LedgerClient

SWEEP_S = 5.0
ON_DECK = 1
"""Trainers that come up while others still hold the slots."""

Prepare = Callable[[LedgerClient], None]
"""What a resume does to the ledger before the missions are looked at."""


def run_campaign(
    plan: CampaignPlan,
    settings: LaunchSettings,
    *,
    meta: Mapping[str, Any],
    on_start: Callable[[RaySession], None] = lambda session: None,
    on_tick: OnTick = lambda reader, now: None,
    prepare: Prepare = lambda ledger: None,
) -> CampaignResult:
    """Runs every mission of the plan to its verdict.

    Args:
        meta: facts about the launch for the ledger.
        on_start: told once when Ray is up.
        on_tick: called a few times a second with a reader of the ledger, and with True where
            what it shows is the last.
        prepare: reopens what an earlier driver left.

    Raises:
        UnfitEnvironmentError: a mission can never fit, or Ray does not start.
        InterruptedBySignalError: SIGINT or SIGTERM; states are recorded.
    """
    started = time.monotonic()
    stopper = Stopper()
    with stopper.installed(), ray_session(settings) as session:
        problems = preflight([work.job for work in plan.works], session.nodes)
        if problems:
            raise UnfitEnvironmentError(" ".join(problems), go_on="python fleet.py doctor")
        check_trials(plan.works, session.nodes)
        on_start(session)
        campaign = open_campaign(plan, settings, session, stopper, meta, prepare)
        watching = Observability(settings, campaign.ledger)
        try:
            with mirrored(
                settings.paths,
                settings.storage,
                tell=lambda text: campaign.ledger.event("warning", "storage", text),
            ):
                with LedgerReader(settings.paths.ledger) as reader:
                    stage.restore(campaign, reader)
                    for mission in campaign.missions.values():
                        if mission.watch is not None:
                            mission.watch.restore(reader)
                        mission.finished_before = needs_no_worker(reader, mission)
                    _loop(campaign, reader, on_tick, watching)
                return close(campaign, time.monotonic() - started)
        except KeyboardInterrupt:
            raise InterruptedBySignalError(
                "Stopped at once by a second signal; the states in the ledger are the last known.",
                signal_number=stopper.signal_number or signal.SIGINT,
                log=str(settings.paths.logs),
                go_on=f"python fleet.py resume {settings.paths.run_id}",
            ) from None
        finally:
            stage.end_all(campaign)
            campaign.end_jobs()
            watching.close()


def open_campaign(
    plan: CampaignPlan,
    settings: LaunchSettings,
    session: RaySession,
    stopper: Stopper,
    meta: Mapping[str, Any],
    prepare: Prepare,
) -> Campaign:
    """Brings the ledger and the stats actor up and records the plan."""
    import ray

    from fleet.judging.stats_actor import StatsService
    from fleet.ledger.writer import Ledger

    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    # Finite retries of idempotent methods: a call that kills its actor must not do so for ever. The
    # restarts are those of a whole launch, which may last a week; an actor that cannot come up, at
    # seconds a try, has used them up in minutes.
    lasting: dict[str, Any] = {
        "num_cpus": 0,
        "max_restarts": 100,
        "max_task_retries": 3,
        "scheduling_strategy": here,
    }
    actor = (
        ray.remote(Ledger)
        .options(name=LEDGER_ACTOR, **lasting)
        .remote(settings.paths.ledger, max_tries=settings.max_tries)
    )
    ledger = LedgerClient(actor)
    ledger.call(
        "begin_session",
        settings.session,
        pid=os.getpid(),
        process_started=psutil.Process().create_time(),
        host=platform.node(),
        command=settings.command,
        code=plan.code_version,
    )
    prepare(ledger)
    ledger.call("record_plan", plan, dict(meta))
    facts = {"dashboard": session.dashboard, "ray_startup_s": session.startup_s}
    ledger.call("set_meta", "session", facts)
    ledger.timing("", "startup", "ray", session.startup_s, time.process_time())
    stats = (
        ray.remote(StatsService)
        .options(name=STATS_ACTOR, **lasting)
        .remote(str(settings.paths.root))
    )
    missions = {work.mission: CampaignMission(work=work) for work in plan.works}
    for mission in missions.values():
        mission.watch = SeedWatch(mission.work.spec, ledger, stats)
    return Campaign(
        plan=plan,
        settings=settings,
        session=session,
        stopper=stopper,
        ledger=ledger,
        stats=stats,
        missions=missions,
        nodes=session.nodes,
    )


def _loop(
    campaign: Campaign, reader: LedgerReader, on_tick: OnTick, watching: Observability
) -> None:
    """Until every mission has its verdict, or a signal or a request to stop came."""
    swept = time.monotonic()
    while True:
        campaign.settings.beat()
        driver_requests.take(campaign, reader)
        stage.collect(campaign, reader)
        collect(campaign, reader)
        _admit(campaign, reader)
        if time.monotonic() - swept >= min(SWEEP_S, campaign.settings.stale_after_s / 4):
            swept = time.monotonic()
            _sweep(campaign, reader)
            _check_waits(campaign, reader)
        over = all(mission.over for mission in campaign.missions.values())
        watching.look(reader, now=over)
        on_tick(reader, over)
        if campaign.stopper.signal_number is not None:
            stop(campaign, reader, on_tick)
        if over:
            return
        time.sleep(POLL_S)


def _admit(campaign: Campaign, reader: LedgerReader) -> None:
    missions, nodes = campaign.missions, campaign.nodes
    waiting = [
        stage.next_job(m, nodes)
        for m in missions.values()
        if not m.started and not m.over and not m.sweeping
    ]
    running = running_jobs(missions.values(), reader) + stage.running(missions.values(), nodes)
    finished = frozenset(name for name, mission in missions.items() if mission.over)
    launched = frozenset(missions)
    now = time.monotonic()
    for job in startable(waiting, running, finished=finished, launched=launched):
        if missions[job.name].ready_since is None:
            missions[job.name].ready_since = now
    decision = admission(
        waiting,
        running,
        nodes,
        finished=finished,
        launched=launched,
        on_deck=ON_DECK,
        waited_s={n: now - m.ready_since for n, m in missions.items() if m.ready_since is not None},
        patience_s=campaign.settings.patience_s,
    )
    for name in (*decision.start, *decision.on_deck):
        if missions[name].to_sweep:
            stage.begin(campaign, missions[name], reader)
            continue
        campaign.ledger.set_phase(name, "starting")
        for group in groups_of(missions[name].work.job):
            campaign.start(missions[name], group)
    if not decision.on_deck:
        helped = choose_helped(missions, decision.spare, reader)
        if helped is not None:
            campaign.ledger.event("info", helped, "an idle slot joins this mission")
            campaign.start(missions[helped], one_worker(missions[helped].work.job), helps=True)


def _sweep(campaign: Campaign, reader: LedgerReader) -> None:
    """Says that the driver lives, looks at the nodes, takes leases away from silent workers."""
    campaign.ledger.call("see_session", campaign.settings.session)
    lost = campaign.ledger.call("sweep_leases", stale_after_s=campaign.settings.stale_after_s)
    for attempt in lost:
        # A process that hangs would keep its slot for ever; its group starts again without it.
        if campaign.session.local and attempt.process_started is not None:
            leftovers.kill(attempt.pid, attempt.process_started)
    if campaign.session.local:
        return
    campaign.nodes = campaign.session.nodes_now()
    there = {node.name for node in campaign.nodes}
    for row in reader.attempts():
        if row.ended_at is None and row.host not in there:
            # Ray knows that the node is gone: nobody has to wait for the silence to be long enough.
            reason = f"its node {row.host} is gone"
            campaign.ledger.call("end_attempt", row.attempt, Cause.WORKER_DIED, reason)


def _check_waits(campaign: Campaign, reader: LedgerReader) -> None:
    """A worker group that waits for resources beyond the limit fails its mission, by name."""
    limit_s = campaign.settings.max_wait_s
    missions = campaign.missions.values()
    for thread, wait in note_waits(missions, reader, campaign.nodes, time.monotonic()):
        if overdue([wait], limit_s=limit_s):
            holders = our_holders(missions, reader) + foreign_holders(campaign.session.namespace)
            reason = explain_wait(wait, holders, free_nodes(), limit_s=limit_s)
            campaign.ledger.event("error", thread.mission, reason)
            campaign.ledger.call("request_stop", thread.mission, "waited too long for resources")
            campaign.ledger.fail_mission(thread.mission, reason=reason, traceback="")
            thread.give_up(reason)
