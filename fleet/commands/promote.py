"""`promote`: register what a launch proved, or move an alias to a registered model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.commands.options import (
    DEFAULT_REGISTRY,
    DEFAULT_RUNS_DIR,
    AsJson,
    Reason,
    RegistryDir,
    RunsDir,
)


def promote(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|MODEL]",
            help="A run id (the newest run by default), or a registered model to make champion.",
        ),
    ] = None,
    mission: Annotated[
        str, typer.Option("--mission", "-m", help="One mission of the run; all by default.")
    ] = "",
    alias: Annotated[
        str,
        typer.Option(
            "--as",
            help="auto (champion where there is none, else canary), champion, canary or none.",
        ),
    ] = "auto",
    force: Annotated[
        bool, typer.Option("--force", help="Without a PROMOTE verdict; needs --mission, --reason.")
    ] = False,
    arm: Annotated[
        str, typer.Option("--arm", help="With --force: another arm than the treatment.")
    ] = "",
    reason: Reason = "",
    as_json: AsJson = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    registry: RegistryDir = DEFAULT_REGISTRY,
) -> int:
    """Promote a run's PROMOTE verdicts into the registry, or a registered model to an alias."""
    from fleet.errors import NothingPromotedError, UsageError
    from fleet.registry.writer import TARGETS

    if alias not in TARGETS:
        raise UsageError(f"--as {alias!r}: expected {', '.join(TARGETS)}.")
    if force != bool(reason):
        raise UsageError("--force and --reason go together: a forced promotion says why.")
    if what is not None and not (runs_dir / what).is_dir() and ("@" in what or ":" in what):
        if force or arm or mission:
            raise UsageError(f"{what} is registered: --force, --arm and --mission are for runs.")
        return _move_alias(what, alias, registry, as_json)

    from fleet.registry.promotion import Wish, note_in_ledger, promote_run
    from fleet.settings import find_run

    paths = find_run(runs_dir, what)
    wish = Wish(
        missions=(mission,) if mission else (),
        arm=arm or None,
        forced=reason or None,
        target=alias,
        actor=f"promote {paths.run_id}",
    )
    outcomes = promote_run(paths, registry, wish)
    note_in_ledger(paths, outcomes)
    _tell(
        {"run_id": paths.run_id, "missions": [outcome.to_dict() for outcome in outcomes]},
        [f"{outcome.mission}: {outcome.model or ''} {outcome.text}" for outcome in outcomes],
        as_json,
    )
    if not any(outcome.model for outcome in outcomes):
        raise NothingPromotedError(
            f"Run {paths.run_id}: nothing was promoted.",
            log=str(paths.report),
            go_on=f"python fleet.py report {paths.run_id}",
        )
    return 0


def _move_alias(name: str, alias: str, registry: Path, as_json: bool) -> int:
    from fleet.errors import UsageError
    from fleet.registry.reader import RegistryReader
    from fleet.registry.writer import Registry

    wanted = "champion" if alias == "auto" else alias
    if wanted not in ("champion", "canary"):
        raise UsageError(f"--as {alias}: {name} is registered; expected champion or canary.")
    with RegistryReader(registry) as reader:
        model = reader.resolve(name)
    with Registry(registry) as writer:
        writer.set_alias(
            model, "champion" if wanted == "champion" else "canary", actor=f"promote {name}"
        )
    document = {"model": model.id, "line": model.line, "alias": wanted}
    _tell(document, [f"{model.id} is {wanted} of {model.line}"], as_json)
    return 0


def _tell(document: object, lines: list[str], as_json: bool) -> None:
    import json
    import sys

    text = json.dumps(document, indent=1) if as_json else "\n".join(lines)
    sys.stdout.write(f"{' '.join(text.split(' '))}\n")
