"""`cancel`: take a mission or an arm out of a run, whether or not the run goes on."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.commands.options import DEFAULT_RUNS_DIR, RunsDir


def cancel(
    targets: Annotated[
        list[str], typer.Argument(metavar="MISSION[:ARM]...", help="What to cancel.")
    ],
    run: Annotated[
        str | None, typer.Option("--run-id", help="Run id; the newest where none is given.")
    ] = None,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> int:
    """Cancel missions or arms of a run; what is finished stays, the others go on."""
    import sys

    from fleet.driver.cancelling import cancel_in
    from fleet.settings import find_run

    paths = find_run(runs_dir, run)
    for target in targets:
        mission, _, arm = target.partition(":")
        sys.stdout.write(f"{cancel_in(paths, mission, arm)}\n")
    return 0
