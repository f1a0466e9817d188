"""`stop`: end a run in order, or at once."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.commands.options import DEFAULT_RUNS_DIR, RunArgument, RunsDir


def stop(
    run: RunArgument = None,
    hard: Annotated[
        bool, typer.Option("--hard", help="Kill the driver and its workers at once.")
    ] = False,
    timeout_s: Annotated[
        float,
        typer.Option("--timeout", min=1, help="Seconds to wait before the next harder step."),
    ] = 60.0,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> int:
    """Stop a run: ask its driver, then SIGTERM, then SIGKILL; `resume` goes on from there."""
    import sys

    from fleet.driver.stopping import stop as stop_run
    from fleet.settings import find_ordered

    paths = find_ordered(runs_dir, run)

    def say(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    stop_run(paths, hard=hard, timeout_s=timeout_s, say=say)
    return 0
