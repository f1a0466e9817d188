"""How a launch ends: the family is judged and recorded, or everything is stopped in order.

Acts on one `Campaign`. What a stopped launch leaves can be resumed.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fleet.driver.campaign import POLL_S, Campaign, any_held, failed_missions
from fleet.errors import InterruptedBySignalError
from fleet.judging.verdicts import verdict_digest
from fleet.keys import canonical_digest
from fleet.ledger.reader import LedgerReader

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


def close(campaign: Campaign, wall_s: float) -> CampaignResult:
    """Judges the family and records the decisions."""
    import ray

    ledger = campaign.ledger
    ordered = [campaign.missions[name].verdict for name in sorted(campaign.missions)]
    started = time.monotonic()
    verdicts = ray.get(campaign.stats.judge_family.remote(ordered))
    digest = verdict_digest(verdicts)
    for verdict in verdicts:
        ledger.call("decide", "verdict", verdict)
    ledger.call(
        "decide",
        "campaign",
        {
            "verdict_digest": digest,
            "verdicts": {v["mission"]: v["verdict"] for v in verdicts},
            "bodies": {v["mission"]: canonical_digest(v) for v in verdicts},
        },
    )
    ledger.timing("", "judge", "family", time.monotonic() - started, 0.0)
    if campaign.plan.code_version != campaign.settings.code_version_now():
        text = "the code of bem, missions or stats changed while the launch ran"
        ledger.call("event", "warning", "fleet", text)
        ledger.call("set_meta", "code_changed", True)
    with LedgerReader(campaign.settings.paths.ledger) as reader:
        failed = failed_missions(reader)
    ledger.call("set_meta", "wall_s", wall_s)
    ledger.call("end_session", campaign.settings.session, "done")
    ledger.call("checkpoint")
    ledger.call("close")
    return CampaignResult(verdicts=tuple(verdicts), failed=failed, digest=digest, wall_s=wall_s)


def stop(campaign: Campaign, reader: LedgerReader, on_tick: OnTick) -> None:
    """Asks the workers to leave, waits a little, records what is left as CANCELLED.

    Raises:
        InterruptedBySignalError: always.
    """
    ledger, paths = campaign.ledger, campaign.settings.paths
    number = campaign.stopper.signal_number or signal.SIGINT
    text = f"stopped by {campaign.stopper.asked_by}"
    names = [name for name, mission in campaign.missions.items() if not mission.over]
    for name in names:
        ledger.call("request_stop", name, text)
        thread = campaign.missions[name].sweep
        if thread is not None:
            thread.sweep.stop()
    deadline = time.monotonic() + campaign.settings.grace_s
    while time.monotonic() < deadline and any_held(reader):
        on_tick(reader, False)
        time.sleep(POLL_S)
    ledger.call("cancel", names, text)
    for name in names:
        ledger.set_phase(name, "cancelled")
    ledger.call("event", "warning", "fleet", text)
    ledger.call("end_session", campaign.settings.session, text)
    ledger.call("checkpoint")
    on_tick(reader, True)
    raise InterruptedBySignalError(
        f"S{text[1:]}; finished runs are kept.",
        signal_number=number,
        log=str(paths.logs),
        go_on=f"python fleet.py resume {paths.run_id}",
    )
