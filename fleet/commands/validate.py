"""`validate`: check a mission file without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A mission.yaml.")],
    profile: Annotated[str, typer.Option("--profile", "-p")] = "laptop",
) -> int:
    """Check a mission file: keys, arms, gates, parity and the mission's own params."""
    import sys

    from fleet.catalog import validate_file

    spec = validate_file(file, profile)
    runs = len(spec.arms) * len(spec.seeds)
    sys.stdout.write(
        f"{file}: valid. Mission {spec.id}, profile {profile}: {len(spec.arms)} arms x "
        f"{len(spec.seeds)} seeds = {runs} runs, {len(spec.gates)} gates, "
        f"hash {spec.digest()[:12]}.\n"
    )
    return 0
