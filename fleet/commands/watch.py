"""`watch`: follow a run live, from its ledger."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.commands.options import (
    DEFAULT_REGISTRY,
    DEFAULT_RUNS_DIR,
    RegistryDir,
    RunArgument,
    RunsDir,
)


def watch(
    run: RunArgument = None,
    interval_s: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds.")] = 1.0,
    web: Annotated[
        bool, typer.Option("--web", help="Show the whole fleet in a browser instead.")
    ] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of --web.")] = 8270,
    host: Annotated[
        str, typer.Option("--host", help="Of --web; beyond loopback it asks for a token.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="Of --web: a further name it is reached by. Repeatable."),
    ] = None,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    registry: RegistryDir = DEFAULT_REGISTRY,
) -> int:
    """Follow a run until it ends, or show the fleet in a browser (--web)."""
    if web:
        from fleet.page.serve import serve

        return serve(
            runs_dir, registry, run=run, host=host, port=port, names=tuple(allow_host or ())
        )

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
