"""Options that several commands share. Data only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.settings import REGISTRY_DIR, RUNS_DIR

RunsDir = Annotated[
    Path, typer.Option("--runs-dir", help="Where launches keep their ledgers and reports.")
]
RunArgument = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="Run id; the newest where none is given.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout; logs go to stderr.")
]
AlertsFile = Annotated[
    Path | None, typer.Option("--alerts", help="File of alert thresholds; see docs/alerts.md.")
]
RegistryDir = Annotated[Path, typer.Option("--registry", help="Where promoted models are kept.")]
Reason = Annotated[
    str, typer.Option("--reason", help="Why, in a sentence; recorded beside the decision.")
]
DEFAULT_RUNS_DIR = RUNS_DIR
DEFAULT_REGISTRY = REGISTRY_DIR


def names(text: str) -> tuple[str, ...]:
    """`A, B,A` as ("A", "B")."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
