"""`retry`: failed runs once more, or what was cancelled after all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.commands.options import DEFAULT_RUNS_DIR, AsJson, RunArgument, RunsDir, names
from fleet.commands.resume import AllowChanges, Cpus, RequirePromotion


def retry(
    run: RunArgument = None,
    failed: Annotated[bool, typer.Option("--failed", help="Runs that failed (default).")] = False,
    cancelled: Annotated[
        bool, typer.Option("--cancelled", help="Missions and arms that `cancel` took out.")
    ] = False,
    missions: Annotated[
        str, typer.Option("--missions", "-m", help="Of these only, comma-separated.")
    ] = "",
    allow_changes: AllowChanges = False,
    cpus: Cpus = 0,
    as_json: AsJson = False,
    require_promotion: RequirePromotion = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> int:
    """Try failed runs again and judge once more; finished runs stay as they are."""
    from fleet.driver.driver_lock import refuse_driven
    from fleet.settings import find_ordered

    refuse_driven(find_ordered(Path(runs_dir), run))
    from fleet.driver.resume import ResumeOrder, carry_out

    return carry_out(
        ResumeOrder(
            run_id=run,
            runs_dir=Path(runs_dir),
            allow_changes=allow_changes,
            failed=failed or not cancelled,
            cancelled=cancelled,
            missions=names(missions),
            cpus=cpus,
            as_json=as_json,
            require_promotion=require_promotion,
        )
    )
