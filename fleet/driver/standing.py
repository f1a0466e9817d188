"""Where a run stands before a resume or a retry changes anything, read from its ledger.

Knows no order of a user's and starts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fleet.driver.drive import is_finished
from fleet.errors import NotFoundError
from fleet.ledger.database import is_begun
from fleet.ledger.reader import LedgerReader
from fleet.settings import RunPaths
from fleet.states import RunState
from missions.spec import MissionSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where the run stands before anything is changed, from its ledger."""

    specs: dict[str, MissionSpec]
    """As frozen; empty before the plan was recorded."""
    code_version: str
    complete: bool
    """Whether every mission has its verdict."""
    finished: bool
    """Whether what follows the verdicts is done too."""
    reads: dict[str, dict[str, int]]
    """Mission -> arm -> reads of its test scores."""
    judged: frozenset[str]
    failed: tuple[str, ...]
    """Failed runs."""
    cancelled: tuple[str, ...]
    cancelled_missions: tuple[str, ...]
    states: dict[str, int]
    earlier_s: float
    last_began: float
    """When the newest driver took the run over (seconds since the epoch)."""
    sessions: tuple[str, ...]


def look(paths: RunPaths, missions: tuple[str, ...] = ()) -> Standing:
    """Reads where a run stands.

    Args:
        missions: failed and cancelled runs of these only; all where empty.
    """
    empty = Standing(
        specs={},
        code_version="",
        complete=False,
        finished=False,
        reads={},
        judged=frozenset(),
        failed=(),
        cancelled=(),
        cancelled_missions=(),
        states={},
        earlier_s=0.0,
        last_began=0.0,
        sessions=(),
    )
    if not is_begun(paths.ledger):
        return empty
    with LedgerReader(paths.ledger) as reader:
        names = [row.mission for row in reader.missions()]
        if not names:
            return empty
        for name in missions:
            if name not in names:
                raise NotFoundError(
                    f"Run {paths.run_id} has no mission {name!r}. It has {', '.join(names)}."
                )
        orders = reader.orders()
        meta = reader.meta()
        rows = reader.runs()
        wanted = [row for row in rows if not missions or row.mission in missions]
        sessions = reader.sessions()
        states: dict[str, int] = {}
        for row in rows:
            states[row.state.value] = states.get(row.state.value, 0) + 1
        cancelled_missions = {*orders.missions, *orders.arms}
        return replace(
            empty,
            specs={name: MissionSpec.model_validate_json(reader.spec_json(name)) for name in names},
            code_version=str(meta["code_version"]),
            complete=meta.get("wall_s") is not None,
            finished=is_finished(meta),
            reads=reader.test_reads(),
            judged=frozenset(str(body["mission"]) for _, body in reader.bodies("verdict")),
            failed=tuple(row.run for row in wanted if row.state is RunState.FAILED),
            cancelled=tuple(
                row.run
                for row in wanted
                if row.state is RunState.CANCELLED and orders.cancelled(row.mission, row.arm)
            ),
            cancelled_missions=tuple(
                sorted(n for n in cancelled_missions if not missions or n in missions)
            ),
            states=states,
            earlier_s=sum((row.ended_at or row.seen_at) - row.started_at for row in sessions),
            last_began=max((row.started_at for row in sessions), default=0.0),
            sessions=tuple(row.session for row in sessions),
        )
