"""`calibrate`: identical arms through the statistics, and the badge that reports carry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.commands.options import DEFAULT_RUNS_DIR, AsJson, RunsDir


def calibrate(
    campaigns: Annotated[
        int, typer.Option("--campaigns", min=20, help="Simulated campaigns of five missions.")
    ] = 2000,
    real: Annotated[
        bool, typer.Option("--real", help="Also one small A/A mission through a whole launch.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where badge.json goes; the package by default."),
    ] = None,
    rng_seed: Annotated[int, typer.Option("--rng-seed", min=0)] = 0,
    cpus: Annotated[
        int, typer.Option("--cpus", min=0, help="Worker slots of --real; 0 takes every core.")
    ] = 0,
    as_json: AsJson = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> int:
    """Run identical arms through the statistics (minutes) and write the calibration badge."""
    import json
    import sys

    from fleet.judging.calibrate import BADGE_CAMPAIGNS, CalibrationOrder, table_of
    from fleet.judging.calibrate import calibrate as carry_out

    badge, path = carry_out(
        CalibrationOrder(
            campaigns=campaigns,
            rng_seed=rng_seed,
            real=real,
            out=out,
            runs_dir=runs_dir,
            cpus=cpus,
        )
    )
    if as_json:
        sys.stdout.write(json.dumps(badge.to_dict(), indent=1) + "\n")
    else:
        sys.stdout.write(table_of(badge.figures))
        if badge.real is not None:
            sys.stdout.write(
                f"real A/A campaign {badge.real['run_id']}: {badge.real['verdict']}, estimate "
                f"{badge.real['estimate']}, interval {badge.real['interval']}, one-sided p "
                f"{badge.real['p_value']}\n"
            )
        word = "holds" if badge.holds else "DOES NOT HOLD"
        if badge.holds and campaigns < BADGE_CAMPAIGNS:
            word = f"is not refuted; {campaigns:,} campaigns are too few to say that it holds"
        sys.stdout.write(f"calibration {word} ({badge.cpu_s:.0f} CPU s); badge: {path}\n")
    return 0 if badge.holds else 1
