"""One driver at work on a run, from Ray's start to the exit code: a launch, or a resume of one.

Holds what both share: progress, the driver's log, the report, and how an end is recorded. The
caller holds the driver's lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fleet import provenance
from fleet.driver import leftovers
from fleet.errors import FleetError, NothingPromotedError, StorageError
from fleet.mirror import bring_artifacts, mirror
from fleet.plan import CampaignPlan
from fleet.redaction import RedactedStream, redactor
from fleet.settings import LaunchSettings, RunPaths
from fleet.storage import Storage
from fleet.workers.worker_ledger import LedgerClient

FINISHED = "finished"
"""The fact that report, promotion and copy are done, of the verdicts with this `wall_s`: a resume
that judges anew has another one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What the user wants to see and to fail."""

    as_json: bool
    require_promotion: bool
    registry: Path | None
    """Where PROMOTE verdicts are registered at the end; None leaves the registry alone."""


def say(text: str) -> None:
    """A line for the terminal; stdout belongs to `--json`."""
    sys.stderr.write(f"{text}\n")


def launch_facts(settings: LaunchSettings) -> dict[str, Any]:
    """What the ledger notes about a launch before it starts."""
    commit, dirty = provenance.commit()
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": settings.command,
        "commit": commit,
        "dirty": dirty,
        "versions": provenance.versions(),
        "hardware": provenance.hardware(),
        "slots": settings.cpus,
        "driver_pid": os.getpid(),
    }


def work(
    plan: CampaignPlan,
    settings: LaunchSettings,
    wishes: Wishes,
    *,
    started: float,
    meta: Mapping[str, Any],
    earlier_s: float = 0.0,
    prepare: Callable[[LedgerClient], None] = lambda ledger: None,
) -> int:
    """Runs the campaign, does what follows the verdicts and returns the exit code.

    Args:
        started: when the command was given (seconds since the epoch).
        earlier_s: wall time of the drivers before this one.
        prepare: what a resume does to the ledger first.
    """
    from fleet.driver.coordinator import run_campaign
    from fleet.driver.ray_session import RaySession
    from fleet.monitor.live import progress
    from fleet.monitor.snapshot import take

    paths = settings.paths
    say(f"run {plan.run_id}: {len(plan.works)} missions, profile {plan.profile}, {paths.root}")

    def on_start(session: RaySession) -> None:
        say(f"Ray is up after {session.startup_s:.0f} s; dashboard {session.dashboard or 'none'}")
        if session.dashboard:
            say("  it asks for a token: `ray get-auth-token` shows it")

    with told_to_the_ledger(settings), progress() as show, driver_log(paths):
        run_campaign(
            plan,
            settings,
            meta=meta,
            on_start=on_start,
            on_tick=lambda reader, now: show(lambda: take(reader, now=time.time()), now),
            prepare=prepare,
        )
    wall_time_s = earlier_s + time.time() - started
    return finish(settings, wishes, started=started, since=started, wall_time_s=wall_time_s)


def finish(
    settings: LaunchSettings,
    wishes: Wishes,
    *,
    started: float,
    since: float,
    wall_time_s: float,
) -> int:
    """What follows the verdicts: report, promotion, a last copy; returns the exit code.

    Each step may be done again, and the ledger is told last, so a driver that is killed in
    between leaves all of it to a resume; the copy is made before as well as after, so that what
    counts as finished here has its promotions there.

    Args:
        since: errors recorded from then on are this run's.
        wall_time_s: of all drivers.
    """
    from fleet.driver.campaign import failed_missions
    from fleet.ledger.reader import LedgerReader
    from fleet.reporting.report import write

    paths = settings.paths
    run_id = paths.run_id
    with told_to_the_ledger(settings):
        page, document = write(paths, wall_time_s=wall_time_s)
        document["promotions"], unpromoted = _promote(settings, wishes.registry)
        if settings.storage:  # the copy of before knows no promotion
            mirror(paths, Storage.at(settings.storage, run_id))
        if not unpromoted:
            _note_finished(paths)
            if settings.storage:  # else a resume of the copy would do all of it again
                mirror(paths, Storage.at(settings.storage, run_id))
    if wishes.as_json:
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    else:
        from fleet.monitor.table import print_verdicts

        print_verdicts(document)
    say(f"done {time.time() - started:.0f} s after the command was given")
    with LedgerReader(paths.ledger) as reader:
        # An alarm about a checkpoint that was set aside is no error: the one before it was used.
        # One about a key with two values fails its run besides.
        errors = len(reader.events(level="error", since=since))
        failed = failed_missions(reader)
    if unpromoted:
        raise StorageError(
            f"{unpromoted[0]} The verdicts stand. Report: {page}",
            log=unpromoted[0].log or str(paths.logs),
            go_on=f"python fleet.py promote {run_id}",
        )
    if failed or errors:
        what = f"missions {', '.join(failed)} failed" if failed else "errors"
        raise FleetError(
            f"{what}: {errors} recorded error(s). The other verdicts stand. Report: {page}",
            log=str(paths.logs),
            go_on=f"python fleet.py status {run_id}"
            + (f", python fleet.py retry --failed {run_id}" if failed else ""),
        )
    promoted = [v["mission"] for v in document["missions"] if v["verdict"] == "PROMOTE"]
    if wishes.require_promotion and not promoted:
        raise NothingPromotedError(
            "No mission was promoted (--require-promotion).",
            log=str(page),
            go_on=f"python fleet.py report {run_id}",
        )
    return 0


def is_finished(meta: Mapping[str, Any]) -> bool:
    """Whether all was done that follows the verdicts which these facts of a ledger tell of."""
    return meta.get("wall_s") is not None and meta.get(FINISHED) == meta["wall_s"]


def _note_finished(paths: RunPaths) -> None:
    from fleet.ledger.reader import LedgerReader
    from fleet.ledger.writer import Ledger

    with LedgerReader(paths.ledger) as reader:
        wall_s = reader.meta()["wall_s"]
    ledger = Ledger(paths.ledger)
    try:
        ledger.set_meta(FINISHED, wall_s)
        ledger.checkpoint()
    finally:
        ledger.close()


def _promote(
    settings: LaunchSettings, registry: Path | None
) -> tuple[list[dict[str, Any]], list[FleetError]]:
    """Registers what the launch proved, and says of every mission what became of it and why."""
    if registry is None:
        say("nothing is registered (--no-promote)")
        return [], []
    from fleet.ledger.reader import LedgerReader
    from fleet.registry.promotion import PROMOTE, note_in_ledger, promote_launch

    if settings.storage:  # what workers on other machines made
        with LedgerReader(settings.paths.ledger) as reader:
            newest = {body["mission"]: body["verdict"] for _, body in reader.bodies("verdict")}
        storage = Storage.at(settings.storage, settings.paths.run_id)
        proven = [name for name, verdict in newest.items() if verdict == PROMOTE]
        for damage in bring_artifacts(storage, settings.paths, proven):
            say(damage)
    outcomes, errors = promote_launch(settings.paths, registry, catalog=settings.catalog)
    note_in_ledger(settings.paths, outcomes)
    for outcome in outcomes:
        say(f"{outcome.mission}: {f'{outcome.model} ' if outcome.model else ''}{outcome.text}")
    return [outcome.to_dict() for outcome in outcomes], errors


@contextlib.contextmanager
def told_to_the_ledger(settings: LaunchSettings, *, go_on: str = "") -> Iterator[None]:
    """An end by an error is recorded, as far as the disk lets us, and says how to go on.

    Args:
        go_on: the command that goes on; empty for `resume`.
    """
    paths = settings.paths
    try:
        yield
    except Exception as error:
        _record_end(settings, error)
        if isinstance(error, FleetError):
            error.log = error.log or (str(paths.logs) if paths.logs.is_dir() else "")
            error.go_on = error.go_on or go_on or f"python fleet.py resume {paths.run_id}"
        raise


def _record_end(settings: LaunchSettings, error: Exception) -> None:
    from fleet.judging.split_reads import register
    from fleet.ledger.writer import Ledger

    leftovers.end([settings.session])  # Ray is down; whoever lags behind holds the ledger's lock
    if not settings.paths.ledger.is_file():
        return
    try:
        ledger = Ledger(settings.paths.ledger)
        try:
            how = redactor().text(" ".join(f"{type(error).__name__}: {error}".split()))
            ledger.end_session(settings.session, how[:500])
        finally:
            ledger.close()
        register(settings.paths)  # what was seen before the end was seen
    except FleetError as unrecorded:
        say(f"the end could not be recorded: {unrecorded}")


@contextlib.contextmanager
def driver_log(paths: RunPaths) -> Iterator[None]:
    """Ray prints to the driver's stdout, which belongs to `--json`: it goes to a file instead."""
    paths.logs.mkdir(parents=True, exist_ok=True)
    with (
        (paths.logs / "driver.log").open("a", encoding="utf-8") as stream,
        contextlib.closing(RedactedStream(stream, redactor())) as cleaned,
        contextlib.redirect_stdout(cleaned),
    ):
        yield
