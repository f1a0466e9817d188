"""`watch`: follow a run live, from its ledger."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.commands.options import DEFAULT_RUNS_DIR, RunArgument, RunsDir


def watch(
    run: RunArgument = None,
    interval_s: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds.")] = 1.0,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> int:
    """Follow a run until it ends."""
    import time

    from fleet.ledger.reader import LedgerReader
    from fleet.monitor.live import progress
    from fleet.monitor.snapshot import take
    from fleet.settings import find_run

    paths = find_run(runs_dir, run)
    with LedgerReader(paths.ledger) as reader, progress() as show:
        while True:
            over = take(reader, now=time.time()).over
            show(lambda: take(reader, now=time.time()), over)
            if over:
                return 0
            time.sleep(interval_s)
