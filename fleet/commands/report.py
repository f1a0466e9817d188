"""`report`: write a run's report again from its ledger and scores."""

from __future__ import annotations

from fleet.commands.options import DEFAULT_RUNS_DIR, AsJson, RunArgument, RunsDir


def report(
    run: RunArgument = None, as_json: AsJson = False, runs_dir: RunsDir = DEFAULT_RUNS_DIR
) -> int:
    """Write the report of a finished run again and say where it lies."""
    import json
    import sys

    from fleet.reporting.report import write
    from fleet.settings import find_run

    paths = find_run(runs_dir, run)
    page, result = write(paths)
    if as_json:
        sys.stdout.write(json.dumps(result, indent=1) + "\n")
    else:
        sys.stdout.write(f"{page}\n")
    return 0
