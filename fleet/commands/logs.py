"""`logs`: what the workers and the driver of a run said."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.commands.options import DEFAULT_RUNS_DIR, RunArgument, RunsDir, names


def logs(
    run: RunArgument = None,
    missions: Annotated[
        str,
        typer.Option(
            "--missions", "-m", help="Mission ids (or `driver`), comma-separated; all by default."
        ),
    ] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Last lines of each.")] = 40,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as lines are written, until it ends.")
    ] = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> int:
    """Show the end of a run's logs."""
    import sys

    from fleet.monitor.log_view import show
    from fleet.settings import find_ordered

    wanted = names(missions)
    paths = find_ordered(runs_dir, run)
    show(paths, wanted, lines=lines, follow=follow, write=sys.stdout.write)
    return 0
