"""A launch from its arguments to its exit code: resolve, plan, check, run, report.

Holds the order of the steps and what the user reads; each step lives elsewhere.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

from fleet import provenance
from fleet.catalog import choose, resolve_all
from fleet.driver.order_file import OrderFile, plain_specs, write_order
from fleet.errors import ConfigError, FleetError, StorageError, UsageError
from fleet.plan import CampaignPlan, arms_by_mission, plan_campaign, select_arms
from fleet.settings import LaunchSettings, RunPaths, check_run_id
from fleet.storage import Storage
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
    alerts_file: Path | None = None
    """Thresholds of the alerts; None takes the defaults."""
    worker_env: Mapping[str, str] = field(default_factory=dict)
    """Environment of the workers beside our own."""
    storage: str = ""
    """URI to which ledger, scores and artifacts are copied; empty copies nothing."""
    no_sweep: bool = False
    """Confirm the mission files' own settings, even where they say what to search."""


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
            go_on=f"python fleet.py status {run_id}, python fleet.py resume {run_id}, or launch "
            "with another --run-id",
        )
    unswept: list[str] = []
    if order.no_sweep:
        unswept = [spec.id for spec in resolve(order) if spec.sweep is not None]
        # The same word as on the command line, so that a resume and the report know of it.
        patches = tuple(f"{mission}:sweep=null" for mission in unswept)
        order = replace(order, overrides=(*order.overrides, *patches))
    specs = resolve(order)
    _refuse_secrets(specs)
    plan = plan_campaign(
        specs, run_id=run_id, profile=order.profile, code_version=provenance.code_version()
    )
    if order.dry_run:
        return _show_plan(plan, order)

    if order.storage:
        Storage.at(order.storage, run_id)
    from fleet.alerts import load_alert_config
    from fleet.driver import preflight
    from fleet.driver.drive import Wishes, launch_facts, work
    from fleet.driver.driver_lock import drive

    settings = LaunchSettings(
        paths=paths,
        profile=order.profile,
        command=reproduce_command(order),
        cpus=preflight.default_cpus(order.cpus),
        address=order.address,
        catalog=order.catalog,
        worker_env=order.worker_env,
        storage=order.storage,
        alerts=load_alert_config(order.alerts_file) if order.alerts_file else None,
    )
    if order.address is None:
        preflight.check_resources(plan, preflight.this_machine(settings.cpus))
    preflight.check_disk(paths.root)
    figures = preflight.check_bases(specs)
    make_folder(paths)
    with drive(paths, command=settings.command) as lock:
        write_order(paths, _as_file(order, plan, settings))
        try:
            return work(
                plan,
                replace(settings, session=lock.session, beat=lock.beat),
                Wishes(
                    as_json=order.as_json,
                    require_promotion=order.require_promotion,
                    registry=order.registry,
                ),
                started=started,
                meta={
                    **launch_facts(settings),
                    "base_figures": figures,
                    "sweeps_left_out": unswept,
                },
            )
        except FleetError:
            if not paths.ledger.is_file():
                _remove_if_empty(paths)
            raise


def make_folder(paths: RunPaths) -> None:
    """The run's folder; it must not be there yet."""
    try:
        paths.root.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(
            f"Run id {paths.run_id!r} was taken just now: {paths.root} exists.",
            go_on="launch again, or with another --run-id",
        ) from None
    except OSError as error:
        raise StorageError(f"{paths.root}: cannot be made: {error}") from None


def _as_file(order: Order, plan: CampaignPlan, settings: LaunchSettings) -> OrderFile:
    specs = [work.spec for work in plan.works]
    return OrderFile(
        missions=tuple(spec.id for spec in specs),
        arms=order.arms,
        profile=order.profile,
        overrides=order.overrides,
        cpus=order.cpus,
        address=order.address,
        storage=settings.storage,
        catalog=order.catalog,
        command=settings.command,
        code_version=plan.code_version,
        registry=None if order.registry is None else str(order.registry.absolute()),
        alerts=settings.alerts,
        specs=plain_specs(specs),
    )


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


def _refuse_secrets(specs: Sequence[MissionSpec]) -> None:
    """A mission file is hashed, kept and published: no secret may stand in it."""
    from fleet.redaction import redactor

    for spec in specs:
        name = redactor().found_in(json.dumps(spec.model_dump(mode="json"), ensure_ascii=False))
        if name is not None:
            raise ConfigError(
                f"Mission {spec.id}: its file or a --set carries the value of {name}. Mission "
                "files are kept and published: let the code read the environment instead."
            )


def reproduce_command(order: Order) -> str:
    """The shortest command line that makes the same tables again (under a new run id)."""
    parts = ["launch", "--profile", order.profile]
    parts += ["--missions", ",".join(order.missions)] if order.missions else []
    parts += ["--arms", ",".join(order.arms)] if order.arms else []
    for override in order.overrides:
        if not (order.no_sweep and override.endswith(":sweep=null")):
            parts += ["--set", override]
    parts += ["--no-sweep"] if order.no_sweep else []
    return provenance.command_line(parts)


def _show_plan(plan: CampaignPlan, order: Order) -> int:
    from fleet.driver.preflight import bases_to_fetch, check_bases, default_cpus, this_machine
    from fleet.judging.plan_stats import plan_all
    from fleet.monitor.plan_table import plan_document, print_plan

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


def _remove_if_empty(paths: RunPaths) -> None:
    """A launch that ended before its ledger was made leaves its run id free."""
    ours = {paths.order, paths.driver_lock}
    files = [path for path in paths.root.rglob("*") if path.is_file() and path not in ours]
    if not any(path.stat().st_size for path in files):
        shutil.rmtree(paths.root)
