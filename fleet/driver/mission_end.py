"""How a mission ends: its worker groups leave, its open runs are settled, its verdict is asked for.

Acts on one `Campaign`; what the retry policy and the mission's own rules decide is carried out
here. Knows Ray and the ledger, no statistics.
"""

from __future__ import annotations

import time
import traceback as tracebacks

from fleet.driver.campaign import Campaign, is_bad
from fleet.driver.mission_job import MAX_FAILURES, JobThread
from fleet.driver.workforce import CampaignMission, groups_of
from fleet.errors import StorageError, cause_of, last_line
from fleet.ledger.reader import LedgerReader
from fleet.policies import Cause


def collect(campaign: Campaign, reader: LedgerReader) -> None:
    """Takes note of worker groups that are gone and of verdicts that are ready."""
    import ray

    for name, mission in campaign.missions.items():
        if mission.started and mission.watch and mission.verdict_ref is None:
            mission.watch.step(reader)
        for job in mission.jobs:
            if job.ended and not job.noted:
                job.noted = True
                _note_end(campaign, name, job)
        # `noted`, not `ended`: a group may have ended, in its own thread, since it was looked at.
        if mission.over or not mission.started or any(not job.noted for job in mission.jobs):
            continue
        if mission.verdict_ref is None:
            if mission.watch and mission.watch.holds_verdict(reader):
                continue
            if mission.stopped is None and _goes_on(campaign, reader, name, mission):
                continue
            _settle(campaign, reader, name, mission)
            campaign.ledger.set_phase(name, "judging")
            mission.verdict_ref = campaign.stats.judge.options(name=f"judge {name}").remote(
                name, stopped=mission.stopped
            )
        ready, _ = ray.wait([mission.verdict_ref], timeout=0)
        if ready:
            mission.verdict = ray.get(mission.verdict_ref)
            campaign.ledger.set_phase(name, _phase(reader, name))


def needs_no_worker(reader: LedgerReader, mission: CampaignMission) -> bool:
    """Whether nothing is left but the verdict, as of a mission that an earlier driver finished."""
    name = mission.work.mission
    if mission.stopped is not None or name in reader.orders().missions:
        return True
    runs = reader.runs(name)
    if any(not row.state.is_terminal for row in runs):
        return False
    whole = all(row.state.name == "DONE" for row in runs)
    return not whole or bool(reader.extras(name))


def _phase(reader: LedgerReader, name: str) -> str:
    if name in reader.orders().missions:
        return "cancelled"
    return "failed" if is_bad(reader, name) else "judged"


def _note_end(campaign: Campaign, name: str, job: JobThread) -> None:
    wall_s = time.monotonic() - job.started
    campaign.ledger.timing(name, "job", job.name, wall_s, 0.0)
    reason = "the worker group ended"
    if job.error is not None:
        disk = cause_of(job.error, StorageError)
        if disk is not None:
            raise StorageError(str(disk), log=str(campaign.settings.paths.logs))
        reason = f"the worker group failed: {last_line(job.error)}"
        campaign.ledger.event("error", name, reason)
    campaign.ledger.call("end_job", job.name, reason)


def _goes_on(campaign: Campaign, reader: LedgerReader, name: str, mission: CampaignMission) -> bool:
    """A worker that lost its lease or was preempted leaves without an error; its queue needs a new
    group. Groups that were preempted are not counted, and neither are those that an idle slot
    lent: they come and go as there is room, and their end says nothing about the mission."""
    open_packs = [pack for pack in reader.packs(name) if pack.ended_at is None]
    if not open_packs or not mission.jobs or name in reader.orders().missions:
        return False
    told = {a.job for a in reader.attempts(name) if a.outcome == Cause.PREEMPTED}
    own = [job for job in mission.jobs if not job.helps]
    counted = sum(job.name not in told for job in own)
    broke = own[-1].error and own[-1].name not in told
    if broke or counted >= MAX_FAILURES + len(groups_of(mission.work.job)):
        return False
    campaign.ledger.event("warning", name, f"{len(open_packs)} packs are open: a new worker group")
    campaign.start(mission, groups_of(mission.work.job)[0])
    return True


def _settle(campaign: Campaign, reader: LedgerReader, name: str, mission: CampaignMission) -> None:
    """Runs that nobody will take up again become failures with a reason."""
    left = [row for row in reader.runs(name) if not row.state.is_terminal]
    if left and mission.watch and mission.stopped is not None:
        campaign.ledger.call("cancel", [name], mission.watch.stop_text)
    elif left:
        error = next((job.error for job in mission.jobs if job.error), None)
        reason = f"the worker group ended with {len(left)} runs open" + (
            f": {type(error).__name__}" if error else ""
        )
        trace = "".join(tracebacks.format_exception(error)) if error else ""
        campaign.ledger.fail_mission(name, reason=reason, traceback=trace)
