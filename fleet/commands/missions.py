"""`missions`: what can be launched."""

from __future__ import annotations

from fleet.commands.options import AsJson


def missions(as_json: AsJson = False) -> int:
    """List the missions with their hypotheses."""
    import json
    import sys

    from fleet.catalog import mission_facts

    facts = mission_facts()
    if as_json:
        sys.stdout.write(json.dumps(facts, indent=1) + "\n")
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 1, 0))
    for column in ("id", "title", "arms", "hypothesis"):
        table.add_column(column, overflow="fold", no_wrap=column == "id")
    for fact in facts:
        arms = "\n".join(f"{name} ({role})" for name, role in fact["arms"].items())
        table.add_row(fact["id"], fact["title"], arms, fact["hypothesis"])
    Console().print(table)
    return 0
