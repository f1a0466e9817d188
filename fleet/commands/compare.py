"""`compare`: two campaigns side by side, from their ledgers."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.commands.options import DEFAULT_RUNS_DIR, AsJson, RunsDir


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN1", help="Run id.")],
    second: Annotated[str, typer.Argument(metavar="RUN2", help="Run id.")],
    as_json: AsJson = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> int:
    """Compare two campaigns: verdicts, estimates gate by gate, what was the same."""
    import json
    import sys

    from fleet.ledger.reader import LedgerReader
    from fleet.reporting.compare import compare as compared
    from fleet.reporting.compare import side_of
    from fleet.settings import find_run

    with (
        LedgerReader(find_run(runs_dir, first).ledger) as one,
        LedgerReader(find_run(runs_dir, second).ledger) as two,
    ):
        found = compared(side_of(one), side_of(two))
    if as_json:
        sys.stdout.write(json.dumps(found.to_dict(), indent=1) + "\n")
        return 0
    from fleet.monitor.compare_table import print_comparison

    print_comparison(found)
    return 0
