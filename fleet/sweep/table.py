"""A mission's sweep as tables: what each arm got and chose, and every trial. Reads the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleet.ledger.reader import LedgerReader
from fleet.ledger.sweeps import SWEEP
from fleet.sweep.plan_lines import show_settings
from fleet.sweep.records import TrialRow
from missions.spec import MissionSpec
from stats.report import Extra


def sweep_document(reader: LedgerReader, mission: str) -> dict[str, Any] | None:
    """A sweep as plain JSON data; None where the mission has none."""
    trials = reader.trials(mission)
    choice = _choice(reader, mission)
    if not trials and choice is None:
        return None
    spec = MissionSpec.model_validate_json(reader.spec_json(mission))
    return {
        "mission": mission,
        "metric": spec.sweep.metric if spec.sweep is not None else "",
        "settled": choice is not None,
        "choice": choice,
        "trials": [
            {
                "arm": row.arm,
                "number": row.number,
                "rung": row.rung,
                "settings": dict(row.settings),
                "score": row.score,
                "seed_scores": {str(seed): value for seed, value in row.seed_scores.items()},
                "error": row.error,
                "cpu_s": row.cpu_s,
                "chosen": _is_chosen(row, choice),
            }
            for row in trials
        ],
    }


def sweep_tables(reader: LedgerReader, mission: str) -> list[Extra]:
    """For the report; none where the mission was not swept."""
    document = sweep_document(reader, mission)
    if document is None:
        return []
    tables = []
    choice = document["choice"]
    if choice is not None:
        seeds = ", ".join(map(str, choice["seeds"]))
        tables.append(
            Extra(
                title="Sweep on dev: what was chosen",
                caption=(
                    f"Mean {choice['metric']} on dev at the last rung, sweep seeds {seeds} (none "
                    "of them confirms). The best of several settings is flattered on dev; the "
                    "verdict rests on the test split, which was locked until these were frozen."
                ),
                columns=("arm", "chosen", "dev score", "the file's own", "settings", "trials"),
                rows=[
                    (
                        arm,
                        show_settings(found["settings"]),
                        f"{found['score']:.4f}",
                        f"{found['file_score']:.4f}",
                        found["trials"],
                        found["evaluations"],
                    )
                    for arm, found in choice["choices"].items()
                ]
                + [(arm, f"not tuned: {why}", "", "", 0, 0) for arm, why in _left(choice)],
            )
        )
    tables.append(
        Extra(
            title="Sweep on dev: all trials",
            caption="One row a trial; number 0 is the mission file's own setting.",
            columns=("arm", "number", "rung", "settings", document["metric"], "CPU s", "note"),
            rows=[
                (
                    row["arm"],
                    row["number"],
                    row["rung"] + 1,
                    show_settings(row["settings"]),
                    "" if row["score"] is None else f"{row['score']:.4f}",
                    f"{row['cpu_s']:.1f}",
                    "chosen" if row["chosen"] else " ".join(row["error"].split())[:120],
                )
                for row in document["trials"]
            ],
        )
    )
    return tables


def print_sweeps(documents: list[dict[str, Any]]) -> None:
    """The choices on a terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bright_black")
    for column in ("mission", "arm", "trial", "rung", "settings", "dev score", "CPU s", ""):
        table.add_column(column, overflow="fold")
    for document in documents:
        for row in document["trials"]:
            table.add_row(
                document["mission"],
                row["arm"],
                str(row["number"]),
                str(row["rung"] + 1),
                show_settings(row["settings"]),
                "failed" if row["score"] is None else f"{document['metric']} {row['score']:.4f}",
                f"{row['cpu_s']:.1f}",
                "chosen" if row["chosen"] else "",
            )
    console.print(table)


def _choice(reader: LedgerReader, mission: str) -> dict[str, Any] | None:
    found = [
        link.body
        for link in reader.decisions()
        if link.kind == SWEEP and link.body["mission"] == mission
    ]
    return found[-1] if found else None


def _is_chosen(row: TrialRow, choice: Mapping[str, Any] | None) -> bool:
    if choice is None or row.arm not in choice["choices"]:
        return False
    last = len(choice["rungs"]) - 1
    return row.rung == last and choice["choices"][row.arm]["settings"] == dict(row.settings)


def _left(choice: Mapping[str, Any]) -> list[tuple[str, str]]:
    follow = [(arm, f"follows {', '.join(who)}") for arm, who in choice["follow"].items()]
    return [*follow, *choice["untuned"].items()]
