"""The driver's side of `stop` and `cancel` from another terminal.

Looks into the run's control folder once a turn of the loop and carries out what lies there.
"""

from __future__ import annotations

from fleet.driver import requests
from fleet.driver.campaign import Campaign
from fleet.driver.cancelling import cancel
from fleet.errors import FleetError, UsageError
from fleet.ledger.reader import LedgerReader


def take(campaign: Campaign, reader: LedgerReader) -> None:
    """Takes up every request that waits and answers it."""
    paths = campaign.settings.paths
    for request in requests.pending(paths):
        try:
            text = _carry_out(campaign, reader, request)
        except FleetError as error:
            requests.answer(paths, request, ok=False, text=str(error))
        else:
            requests.answer(paths, request, ok=True, text=text)


def _carry_out(campaign: Campaign, reader: LedgerReader, request: requests.Request) -> str:
    if request.kind == "stop":
        campaign.stopper.ask("python fleet.py stop")
        return "the driver stops its workers"
    mission = campaign.missions.get(request.mission)
    if mission is not None and mission.verdict_ref is not None:
        raise UsageError(f"Mission {request.mission} is being judged: nothing of it is open.")

    def order(name: str, arm: str | None, reason: str) -> int:
        return int(campaign.ledger.call("cancel_order", name, arm, reason))

    text = cancel(reader, order, request.mission, request.arm)
    if mission is None or request.arm:
        return text
    if mission.sweeping and mission.sweep is not None:
        mission.sweep.sweep.stop()  # the mission holds its slots until its trials are gone
    elif not mission.jobs:
        mission.finished_before = True  # it never needed a worker: straight to its verdict
    return text
