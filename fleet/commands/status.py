"""`status`: where a run stands, from its ledger."""

from __future__ import annotations

from fleet.commands.options import DEFAULT_RUNS_DIR, AsJson, RunArgument, RunsDir


def status(
    run: RunArgument = None, as_json: AsJson = False, runs_dir: RunsDir = DEFAULT_RUNS_DIR
) -> int:
    """Show where a run stands."""
    import json
    import sys
    import time

    from fleet.ledger.reader import LedgerReader
    from fleet.monitor.snapshot import take
    from fleet.settings import find_run

    paths = find_run(runs_dir, run)
    with LedgerReader(paths.ledger) as reader:
        snapshot = take(reader, now=time.time())
    if as_json:
        sys.stdout.write(json.dumps(snapshot.to_dict(), indent=1) + "\n")
        return 0
    from fleet.monitor.table import print_snapshot

    print_snapshot(snapshot, paths)
    return 0
