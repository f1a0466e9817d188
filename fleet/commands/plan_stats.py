"""`plan-stats`: which gates the present budget can decide, and what would decide the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.commands.options import DEFAULT_RUNS_DIR, AsJson, RunsDir, names


def plan_stats(
    missions: Annotated[
        str, typer.Option("--missions", "-m", help="Mission ids, comma-separated; all by default.")
    ] = "",
    profile: Annotated[
        str, typer.Option("--profile", "-p", help="smoke, laptop or cluster.")
    ] = "laptop",
    pilot: Annotated[
        str,
        typer.Option(
            "--pilot",
            help="A run (folder or id) or a long table of scores (.csv, .parquet, .jsonl), as "
            "judge reads it; by default the newest run that has scores of the mission.",
        ),
    ] = "",
    pilot_examples: Annotated[
        int,
        typer.Option(
            "--pilot-examples",
            min=0,
            help="Test items behind a pilot that is a table; 0 takes the number that is planned.",
        ),
    ] = 0,
    run_cost: Annotated[
        float,
        typer.Option(
            "--run-cost",
            min=0,
            help="Training a run costs as much as evaluating this many test items; 0 takes what "
            "the pilot measured, or 1,000.",
        ),
    ] = 0,
    power: Annotated[
        float, typer.Option("--power", min=0.5, max=0.99, help="What counts as decided.")
    ] = 0.8,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="As in launch: another size, another margin."),
    ] = None,
    as_json: AsJson = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> int:
    """Say which gates the planned seeds and test items can decide (power, MDE, cheapest size)."""
    import json
    import sys

    from fleet.catalog import choose, resolve_all
    from fleet.driver.launch import CATALOG
    from fleet.judging.plan_stats import plan_all

    wanted = names(missions)
    specs = resolve_all(
        choose(wanted), profile=profile, overrides=tuple(overrides or ()), catalog=CATALOG
    )
    plans = plan_all(
        specs,
        Path(runs_dir),
        pilot=pilot or None,
        pilot_examples=pilot_examples or None,
        run_cost=run_cost or None,
        power=power,
    )
    if as_json:
        document = {"profile": profile, "missions": [plan.to_dict() for plan in plans.values()]}
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
        return 0
    from fleet.monitor.power_table import print_plans

    print_plans(list(plans.values()), profile=profile, power=power)
    return 0
