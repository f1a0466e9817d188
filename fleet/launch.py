"""A launch from its arguments to its exit code: resolve, plan, check, run, report.

Holds the order of the steps and what the user reads; each step lives elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from fleet import provenance
from fleet.catalog import choose, resolve_all
from fleet.errors import ConfigError, FleetError, NothingPromotedError, StorageError, UsageError
from fleet.plan import CampaignPlan, arms_by_mission, plan_campaign, select_arms
from fleet.settings import LaunchSettings, RunPaths, check_run_id
from missions.spec import PROFILES, MissionSpec
from missions.spec_errors import suggest

CATALOG = "missions.registry"


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What the user asked for."""

    missions: tuple[str, ...]
    arms: tuple[str, ...]
    profile: str
    overrides: tuple[str, ...]
    run_id: str
    dry_run: bool
    as_json: bool
    require_promotion: bool
    address: str | None
    cpus: int
    runs_dir: Path
    registry: Path | None = None
    """Where PROMOTE verdicts are registered at the end; None leaves the registry alone."""
    catalog: str = CATALOG
    """Where missions come from; no command offers another one."""
    worker_env: Mapping[str, str] = field(default_factory=dict)
    """Environment of the workers beside our own."""


def carry_out(order: Order) -> int:
    """Carries a launch out and returns its exit code."""
    started = psutil.Process().create_time()
    if order.profile not in PROFILES:
        raise ConfigError(f"Unknown profile {order.profile!r}.{suggest(order.profile, PROFILES)}")
    run_id = check_run_id(order.run_id or datetime.now(UTC).strftime("%Y%m%d-%H%M%S"))
    paths = RunPaths(root=(order.runs_dir / run_id).absolute())
    if paths.root.exists() and not order.dry_run:
        raise UsageError(
            f"Run id {run_id!r} is taken: {paths.root} exists.",
            go_on=f"python fleet.py status {run_id}, or launch with another --run-id",
        )
    specs = resolve(order)
    plan = plan_campaign(
        specs, run_id=run_id, profile=order.profile, code_version=provenance.code_version()
    )
    if order.dry_run:
        return _show_plan(plan, order)

    from fleet import preflight

    settings = LaunchSettings(
        paths=paths,
        profile=order.profile,
        command=reproduce_command(order),
        cpus=preflight.default_cpus(order.cpus),
        address=order.address,
        catalog=order.catalog,
        worker_env=order.worker_env,
    )
    if order.address is None:
        preflight.check_resources(plan, preflight.this_machine(settings.cpus))
    preflight.check_disk(paths.root)
    figures = preflight.check_bases(specs)
    try:
        paths.root.mkdir(parents=True)
    except OSError as error:
        raise StorageError(f"{paths.root}: cannot be made: {error}") from None
    return _run(plan, settings, order, started=started, base_figures=figures)


def resolve(order: Order) -> list[MissionSpec]:
    """The specifications that an order asks for, arms selected."""
    chosen = choose(order.missions) if order.catalog == CATALOG else order.missions
    specs = {
        spec.id: spec
        for spec in resolve_all(
            chosen, profile=order.profile, overrides=order.overrides, catalog=order.catalog
        )
    }
    for mission, arms in arms_by_mission(order.arms, specs).items():
        specs[mission] = select_arms(specs[mission], arms)
    return list(specs.values())


def reproduce_command(order: Order) -> str:
    """The shortest command line that makes the same tables again (under a new run id)."""
    parts = ["launch", "--profile", order.profile]
    parts += ["--missions", ",".join(order.missions)] if order.missions else []
    parts += ["--arms", ",".join(order.arms)] if order.arms else []
    for override in order.overrides:
        parts += ["--set", override]
    return provenance.command_line(parts)


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


def _run(
    plan: CampaignPlan,
    settings: LaunchSettings,
    order: Order,
    *,
    started: float,
    base_figures: dict[str, dict[str, float]],
) -> int:
    from fleet.coordinator import run_campaign
    from fleet.ledger.reader import LedgerReader
    from fleet.monitor.live import progress
    from fleet.monitor.snapshot import take
    from fleet.ray_session import RaySession
    from fleet.report import write
    from fleet.split_reads import register

    paths = settings.paths

    def say(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    say(f"run {plan.run_id}: {len(plan.works)} missions, profile {plan.profile}, {paths.root}")

    def on_start(session: RaySession) -> None:
        say(f"Ray is up after {session.startup_s:.0f} s; dashboard {session.dashboard or 'none'}")
        if session.dashboard:
            say("  it asks for a token: `ray get-auth-token` shows it")

    meta = {**launch_facts(settings), "base_figures": base_figures}
    try:
        with progress() as show, _driver_log(paths):
            result = run_campaign(
                plan,
                settings,
                meta=meta,
                on_start=on_start,
                on_tick=lambda reader, now: show(lambda: take(reader, now=time.time()), now),
            )
    except FleetError as error:
        if paths.ledger.is_file():
            try:
                register(paths)  # what was seen before the end was seen
            except FleetError as unregistered:
                say(f"test reads not registered: {unregistered}")
        else:
            _remove_if_empty(paths.root)
        error.log = error.log or (str(paths.logs) if paths.logs.is_dir() else "")
        raise
    page, document = write(paths, wall_time_s=time.time() - started)
    document["promotions"], unpromoted = _promote(paths, order, say)
    if order.as_json:
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    else:
        from fleet.monitor.table import print_verdicts

        print_verdicts(document)
    say(f"done {time.time() - started:.0f} s after the command was given")
    with LedgerReader(paths.ledger) as reader:
        errors = len(reader.events(level="error")) + len(reader.events(level="alarm"))
    if unpromoted:
        raise StorageError(
            f"{unpromoted[0]} The verdicts stand. Report: {page}",
            log=unpromoted[0].log or str(paths.logs),
            go_on=f"python fleet.py promote {plan.run_id}",
        )
    if result.failed or errors:
        what = f"missions {', '.join(result.failed)} failed" if result.failed else "errors"
        raise FleetError(
            f"{what}: {errors} recorded error(s). The other verdicts stand. Report: {page}",
            log=str(paths.logs),
            go_on=f"python fleet.py status {plan.run_id}",
        )
    promoted = [v["mission"] for v in document["missions"] if v["verdict"] == "PROMOTE"]
    if order.require_promotion and not promoted:
        raise NothingPromotedError(
            "No mission was promoted (--require-promotion).",
            log=str(page),
            go_on=f"python fleet.py report {plan.run_id}",
        )
    return 0


def _promote(
    paths: RunPaths, order: Order, say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], list[FleetError]]:
    """Registers what the launch proved, and says of every mission what became of it and why."""
    if order.registry is None:
        say("nothing is registered (--no-promote)")
        return [], []
    from fleet.registry.promotion import note_in_ledger, promote_launch

    outcomes, errors = promote_launch(paths, order.registry, catalog=order.catalog)
    note_in_ledger(paths, outcomes)
    for outcome in outcomes:
        say(f"{outcome.mission}: {f'{outcome.model} ' if outcome.model else ''}{outcome.text}")
    return [outcome.to_dict() for outcome in outcomes], errors


@contextlib.contextmanager
def _driver_log(paths: RunPaths) -> Iterator[None]:
    """Ray prints to the driver's stdout, which belongs to `--json`: it goes to a file instead."""
    paths.logs.mkdir(parents=True, exist_ok=True)
    with (
        (paths.logs / "driver.log").open("a", encoding="utf-8") as stream,
        contextlib.redirect_stdout(stream),
    ):
        yield


def _show_plan(plan: CampaignPlan, order: Order) -> int:
    from fleet.monitor.plan_table import plan_document, print_plan
    from fleet.plan_stats import plan_all
    from fleet.preflight import bases_to_fetch, check_bases, default_cpus, this_machine

    specs = [work.spec for work in plan.works]
    unchecked = bases_to_fetch(specs)
    check_bases(specs, leave_out=unchecked)
    slots = default_cpus(order.cpus)
    document = plan_document(
        plan,
        slots=slots,
        here=this_machine(slots),
        power=plan_all(specs, order.runs_dir, required_only=True),
        unchecked_bases=unchecked,
    )
    if order.as_json:
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    else:
        print_plan(document)
    return 0


def _remove_if_empty(folder: Path) -> None:
    """A launch that ended before its ledger was made leaves its run id free."""
    left = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    if not left:
        shutil.rmtree(folder)
