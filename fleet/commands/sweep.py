"""`sweep`: search the settings of missions on dev, without a confirmation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.commands.options import DEFAULT_RUNS_DIR, AsJson, RunsDir, names


def sweep(
    missions: Annotated[
        str,
        typer.Option(
            "--missions", "-m", help="Mission ids, comma-separated; all with a sweep by default."
        ),
    ] = "",
    trials: Annotated[
        int, typer.Option("--trials", min=0, help="Settings for each arm; 0 takes the file's.")
    ] = 0,
    profile: Annotated[
        str, typer.Option("--profile", "-p", help="smoke, laptop or cluster.")
    ] = "laptop",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Changes a value of the mission files."),
    ] = None,
    run_id: Annotated[
        str,
        typer.Option("--run-id", help="Name of the run; an interrupted one of this id goes on."),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show trials, cost and ranges, and stop.")
    ] = False,
    as_json: AsJson = False,
    address: Annotated[
        str, typer.Option("--address", help="An existing Ray cluster instead of this machine.")
    ] = "",
    cpus: Annotated[
        int, typer.Option("--cpus", min=0, help="Worker slots here; 0 takes every usable core.")
    ] = 0,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> int:
    """Search the settings of missions on dev; `launch` does it before it confirms."""
    from fleet.driver.launch import Order
    from fleet.sweep.only import carry_out

    order = Order(
        missions=names(missions),
        arms=(),
        profile=profile,
        overrides=tuple(overrides or ()),
        run_id=run_id,
        dry_run=dry_run,
        as_json=as_json,
        require_promotion=False,
        address=address or None,
        cpus=cpus,
        runs_dir=Path(runs_dir),
    )
    return carry_out(order, trials=trials or None)
