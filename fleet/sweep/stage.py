"""The sweep as a stage of a mission: before its worker groups, after what it depends on.

Acts on one `Campaign` for the coordinator: begins sweeps that were admitted, settles those that
ended, and picks up what an earlier driver settled. A sweep that finds nothing fails its mission.
"""

from __future__ import annotations

import traceback as tracebacks
from collections.abc import Iterable
from dataclasses import replace

from fleet.driver.campaign import Campaign
from fleet.driver.workforce import CampaignMission
from fleet.errors import StorageError, cause_of
from fleet.ledger.reader import LedgerReader
from fleet.plan import settled
from fleet.policies import Job, Node
from fleet.sweep.driving import begin_sweep, settle_sweep
from fleet.sweep.resources import trial_resources
from fleet.sweep.settling import settled_spec


def restore(campaign: Campaign, reader: LedgerReader) -> None:
    """Missions whose sweep an earlier driver settled go on with what it chose."""
    for mission in campaign.missions.values():
        if mission.work.spec.sweep is None:
            continue
        chosen = settled_spec(reader, mission.work.spec)
        if chosen is not None:
            mission.work = settled(mission.work, chosen)
            mission.swept = True


def next_job(mission: CampaignMission, nodes: tuple[Node, ...]) -> Job:
    """What the mission asks for next: its sweep, or the worker group that confirms."""
    return _sweep_job(mission, nodes) if mission.to_sweep else mission.work.job


def begin(campaign: Campaign, mission: CampaignMission, reader: LedgerReader) -> None:
    """Starts a mission's sweep, without the arms that a user has cancelled."""
    campaign.ledger.set_phase(mission.work.mission, "sweeping")
    mission.sweep = begin_sweep(
        mission.work,
        campaign.settings,
        campaign.ledger,
        namespace=campaign.session.namespace,
        nodes=campaign.nodes,
        code_version=campaign.plan.code_version,
        cancelled=reader.orders().arms.get(mission.work.mission, ()),
    )


def running(missions: Iterable[CampaignMission], nodes: tuple[Node, ...]) -> list[Job]:
    """Sweeps that hold resources."""
    return [_sweep_job(mission, nodes) for mission in missions if mission.sweeping]


def collect(campaign: Campaign, reader: LedgerReader) -> None:
    """Settles the sweeps that have ended.

    Raises:
        StorageError: the disk gave out under a sweep.
    """
    orders = reader.orders()
    for name, mission in campaign.missions.items():
        thread = mission.sweep
        if thread is None or mission.swept or mission.finished_before:
            continue
        if not thread.ended:
            thread.sweep.leave_out(orders.arms.get(name, ()))
            if name in orders.missions:
                thread.sweep.stop()
            continue
        if name in orders.missions:  # whatever it found, nobody confirms it
            mission.finished_before = True
            continue
        if thread.outcome is not None:
            mission.work = settle_sweep(
                mission.work,
                thread.outcome,
                campaign.ledger,
                code_version=campaign.plan.code_version,
            )
            mission.swept = True
            campaign.ledger.set_phase(name, "waiting")
            continue
        mission.finished_before = True
        error = thread.error
        if error is not None and (disk := cause_of(error, StorageError)) is not None:
            raise StorageError(str(disk), log=str(campaign.settings.paths.logs))
        reason = f"sweep: {' '.join(str(error).split())}"
        trace = "".join(tracebacks.format_exception(error)) if error is not None else ""
        campaign.ledger.event("error", name, reason)
        campaign.ledger.fail_mission(name, reason=reason, traceback=trace)


def end_all(campaign: Campaign, *, wait_s: float = 15.0) -> None:
    """Ends every sweep that still runs; finished trials are in the ledger."""
    alive = [m.sweep for m in campaign.missions.values() if m.sweep is not None and m.sweeping]
    for thread in alive:
        thread.sweep.stop()
    for thread in alive:
        thread.thread.join(timeout=wait_s)


def _sweep_job(mission: CampaignMission, nodes: tuple[Node, ...]) -> Job:
    work = mission.work
    asked = trial_resources(work.spec, work.job, nodes).job
    return replace(asked, name=work.mission, depends_on=work.job.depends_on)
