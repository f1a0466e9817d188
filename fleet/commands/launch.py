"""`launch`: run missions to their verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.commands.options import (
    DEFAULT_REGISTRY,
    DEFAULT_RUNS_DIR,
    AlertsFile,
    AsJson,
    RegistryDir,
    RunsDir,
    names,
)
from fleet.storage import STORAGE_VARIABLE


def launch(
    missions: Annotated[
        str, typer.Option("--missions", "-m", help="Mission ids, comma-separated; all by default.")
    ] = "",
    arms: Annotated[
        str,
        typer.Option(
            "--arms",
            help="Only these arms: `arm` in every mission that has it, `A:arm` in mission A.",
        ),
    ] = "",
    profile: Annotated[
        str, typer.Option("--profile", "-p", help="smoke (seconds), laptop or cluster.")
    ] = "laptop",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="A.B=C",
            help="Changes a value of the mission files; `A:a.b=c` in mission A only. Repeatable.",
        ),
    ] = None,
    run_id: Annotated[
        str, typer.Option("--run-id", help="Name of the run; date and time by default.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the resolved plan and stop.")
    ] = False,
    as_json: AsJson = False,
    require_promotion: Annotated[
        bool, typer.Option("--require-promotion", help="Exit 7 where no mission is promoted.")
    ] = False,
    no_promote: Annotated[
        bool, typer.Option("--no-promote", help="Leave the registry alone whatever the verdicts.")
    ] = False,
    no_sweep: Annotated[
        bool, typer.Option("--no-sweep", help="Confirm the files' own settings; search nothing.")
    ] = False,
    address: Annotated[
        str, typer.Option("--address", help="An existing Ray cluster instead of this machine.")
    ] = "",
    storage: Annotated[
        str,
        typer.Option(
            "--storage",
            envvar=STORAGE_VARIABLE,
            help="Copy ledger, scores and artifacts there: s3://, gs://, abfss://, a path.",
        ),
    ] = "",
    cpus: Annotated[
        int, typer.Option("--cpus", min=0, help="Worker slots here; 0 takes every usable core.")
    ] = 0,
    alerts: AlertsFile = None,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    registry: RegistryDir = DEFAULT_REGISTRY,
) -> int:
    """Run missions to their verdicts: plan, train, evaluate, judge, report."""
    from fleet.driver.launch import Order, carry_out

    order = Order(
        missions=names(missions),
        arms=names(arms),
        profile=profile,
        overrides=tuple(overrides or ()),
        run_id=run_id,
        dry_run=dry_run,
        as_json=as_json,
        require_promotion=require_promotion,
        address=address or None,
        storage=storage,
        cpus=cpus,
        runs_dir=Path(runs_dir),
        registry=None if no_promote else Path(registry),
        alerts_file=alerts,
        no_sweep=no_sweep,
    )
    return carry_out(order)
