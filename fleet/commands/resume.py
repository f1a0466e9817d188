"""`resume`: go on with a run that was stopped, killed, or ran out of disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.commands.options import DEFAULT_RUNS_DIR, AsJson, RunArgument, RunsDir

AllowChanges = Annotated[
    bool,
    typer.Option(
        "--allow-changes",
        help="Go on although mission files or code differ from the launch's; recorded with both "
        "hashes in the chain of decisions.",
    ),
]
Cpus = Annotated[
    int, typer.Option("--cpus", min=0, help="Worker slots here; 0 takes what the launch asked for.")
]
RequirePromotion = Annotated[
    bool, typer.Option("--require-promotion", help="Exit 7 where no mission is promoted.")
]


def resume(
    run: RunArgument = None,
    allow_changes: AllowChanges = False,
    cpus: Cpus = 0,
    storage: Annotated[
        str,
        typer.Option(
            "--storage", help="Where the launch was copied to: brings it back if it is not here."
        ),
    ] = "",
    as_json: AsJson = False,
    require_promotion: RequirePromotion = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> int:
    """Go on with a run: finished runs stay, half-done ones continue from their checkpoints."""
    import sys

    from fleet.driver.driver_lock import refuse_driven
    from fleet.settings import find_ordered

    if storage:
        from fleet.mirror import bring_back

        back = bring_back(storage, Path(runs_dir), run)
        if back is not None:
            sys.stderr.write(f"brought {run} back from {storage}\n")
            if back.lacking:
                names = ", ".join(back.lacking)
                sys.stderr.write(f"  no artifacts there of {names}: they cannot be promoted\n")
            for damage in back.damaged:
                sys.stderr.write(f"  not taken, and cannot be promoted: {damage}\n")
    refuse_driven(find_ordered(Path(runs_dir), run))
    from fleet.driver.resume import ResumeOrder, carry_out

    return carry_out(
        ResumeOrder(
            run_id=run,
            runs_dir=Path(runs_dir),
            allow_changes=allow_changes,
            cpus=cpus,
            storage=storage,
            as_json=as_json,
            require_promotion=require_promotion,
        )
    )
