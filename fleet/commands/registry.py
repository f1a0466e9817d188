"""`registry`: what was promoted: list, show, verify, export, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.commands.options import DEFAULT_REGISTRY, AsJson, Reason, RegistryDir

registry = typer.Typer(
    name="registry",
    help="Promoted models: list, show, verify, export, import.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Id, `line@alias`, a line or mission (its champion), or sha256."
    ),
]


@registry.command("list")
def list_models(as_json: AsJson = False, folder: RegistryDir = DEFAULT_REGISTRY) -> int:
    """All registered models with their aliases, newest first."""
    from fleet.registry.reader import RegistryReader
    from fleet.registry.shown import listing, print_listing

    with RegistryReader(folder) as reader:
        document = listing(reader)
    if as_json:
        return _json(document)
    print_listing(document)
    return 0


@registry.command("show")
def show(
    model: ModelArgument, as_json: AsJson = False, folder: RegistryDir = DEFAULT_REGISTRY
) -> int:
    """One model: manifest, lineage, aliases, decisions."""
    from fleet.registry.reader import RegistryReader
    from fleet.registry.shown import print_model, shown

    with RegistryReader(folder) as reader:
        document = shown(reader, reader.resolve(model))
    if as_json:
        return _json(document)
    print_model(document)
    return 0


@registry.command("verify")
def verify(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="All models where none is given.")
    ] = None,
    as_json: AsJson = False,
    folder: RegistryDir = DEFAULT_REGISTRY,
) -> int:
    """Check every byte against the manifests, and the chain of decisions."""
    import sys

    from fleet.errors import StorageError
    from fleet.registry.checking import check
    from fleet.registry.reader import RegistryReader

    with RegistryReader(folder) as reader:
        report = check(reader, model)
    if as_json:
        _json(report.to_dict())
    else:
        for line in (*report.problems, *report.notes):
            sys.stderr.write(f"{line}\n")
        sys.stdout.write(
            f"{report.models} models, {report.files} files, {report.size_bytes:,} bytes, "
            f"{report.decisions} decisions: {'ok' if report.ok else 'NOT ok'}\n"
        )
    if not report.ok:
        raise StorageError(
            f"{len(report.problems)} problem(s) in {folder}.",
            log=str(folder),
            go_on="python fleet.py rollback LINE --reason ..., or import the model again",
        )
    return 0


@registry.command("export")
def export(
    model: ModelArgument,
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is not there yet.")],
    with_base: Annotated[
        bool, typer.Option("--with-base", help="Copy the base model's files too.")
    ] = False,
    peft: Annotated[
        bool, typer.Option("--peft", help="Write each adapter as a PEFT folder too.")
    ] = False,
    folder: RegistryDir = DEFAULT_REGISTRY,
) -> int:
    """Copy a model to a folder that BEMModel.from_pretrained loads from."""
    import sys

    from fleet.registry.reader import RegistryReader
    from fleet.registry.transfer import export_model

    with RegistryReader(folder) as reader:
        row = reader.resolve(model)
        made = export_model(reader, row, target, with_base=with_base, peft=peft)
    for line in made.left_out:
        sys.stderr.write(f"not as PEFT: {line}\n")
    sys.stdout.write(f"{row.id} -> {made.folder}\n")
    return 0


@registry.command("import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="What `registry export` wrote.")],
    alias: Annotated[str, typer.Option("--as", help="none, auto, champion or canary.")] = "none",
    force: Annotated[
        bool, typer.Option("--force", help="A model without a PROMOTE verdict; needs --reason.")
    ] = False,
    reason: Reason = "",
    folder: RegistryDir = DEFAULT_REGISTRY,
) -> int:
    """Register an exported folder; it takes no traffic unless --as says so."""
    import sys

    from fleet.errors import UsageError
    from fleet.registry.transfer import import_model
    from fleet.registry.writer import TARGETS, Registry

    if alias not in TARGETS:
        raise UsageError(f"--as {alias!r}: expected {', '.join(TARGETS)}.")
    if force != bool(reason):
        raise UsageError("--force and --reason go together: a forced import says why.")
    with Registry(folder) as writer:
        model, given = import_model(
            writer, source, target=alias, forced=reason or None, actor=f"import {source}"
        )
    sys.stdout.write(f"{model} imported{f' as {given}' if given else ''}\n")
    return 0


def _json(document: object) -> int:
    import json
    import sys

    sys.stdout.write(json.dumps(document, indent=1) + "\n")
    return 0
