"""Cancels a mission or an arm: what may be cancelled, and the order to the ledger.

The same for a driver that is asked and for a command that finds none. Leaving an arm out follows
the rules of `launch --arms`. Knows no Ray.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fleet.driver import requests
from fleet.driver.driver_lock import drive, driver_of
from fleet.errors import NotFoundError, UsageError
from fleet.ledger.reader import LedgerReader
from fleet.ledger.writer import Ledger
from fleet.plan import select_arms
from fleet.settings import RunPaths
from missions.spec import MissionSpec
from missions.spec_errors import suggest

ANSWER_S = 30.0
"""How long a driver may take to answer (Ray may just be starting)."""


def cancel(
    reader: LedgerReader, order: Callable[[str, str | None, str], Any], mission: str, arm: str
) -> str:
    """Cancels and says what became of it.

    Args:
        order: `cancel_order` of the ledger, or of a client of it.
        arm: empty for the whole mission.

    Raises:
        NotFoundError: no such mission or arm in this run.
        UsageError: it is judged already and is not tried again, or the primary gate needs the arm.
    """
    known = [row.mission for row in reader.missions()]
    if mission not in known:
        raise NotFoundError(f"This run has no mission {mission!r}.{suggest(mission, known)}")
    judged = any(body["mission"] == mission for _, body in reader.bodies("verdict"))
    if judged and all(row.state.is_terminal for row in reader.runs(mission)):
        raise UsageError(f"Mission {mission} has its verdict already: nothing is open.")
    spec = MissionSpec.model_validate_json(reader.spec_json(mission))
    note = ""
    if arm:
        if arm not in spec.arms:
            raise NotFoundError(f"Mission {mission} has no arm {arm!r}.{suggest(arm, spec.arms)}")
        gone = {arm, *reader.orders().arms.get(mission, ())}
        rest = select_arms(spec, [name for name in spec.arms if name not in gone])
        if rest.withhold_verdict and not spec.withhold_verdict:
            note = f"; the verdict is withheld: {rest.withhold_verdict}"
    count = order(mission, arm or None, "cancelled by the user")
    return f"{mission}{':' + arm if arm else ''} cancelled, {count} open runs{note}"


def cancel_in(paths: RunPaths, mission: str, arm: str) -> str:
    """Cancels in a run: through its driver where it has one, else in the ledger itself.

    Raises:
        UsageError: the driver refused, or did not answer.
    """
    driver = driver_of(paths)
    if driver is not None and driver.alive:
        answer = requests.wait_for_answer(
            paths, requests.ask(paths, "cancel", mission, arm), timeout_s=ANSWER_S
        )
        if answer is None:
            raise UsageError(
                f"The driver ({driver.who}) did not answer within {ANSWER_S:.0f} s.",
                log=str(paths.logs),
                go_on=f"python fleet.py stop {paths.run_id}, then cancel again and resume",
            )
        if not answer.ok:
            raise UsageError(answer.text)
        return answer.text
    with drive(paths, command="cancel"), LedgerReader(paths.ledger) as reader:
        ledger = Ledger(paths.ledger)
        try:
            return cancel(reader, ledger.cancel_order, mission, arm)
        finally:
            ledger.close()
