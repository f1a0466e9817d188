"""`rollback`: the champion before becomes champion again, or a canary leaves traffic."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.commands.options import DEFAULT_REGISTRY, AsJson, Reason, RegistryDir


def rollback(
    line: Annotated[
        str, typer.Argument(metavar="LINE", help="`base:mission`, such as bundled:A, or A.")
    ],
    canary: Annotated[
        bool, typer.Option("--canary", help="Take the canary out; the champion stays.")
    ] = False,
    reason: Reason = "",
    as_json: AsJson = False,
    registry: RegistryDir = DEFAULT_REGISTRY,
) -> int:
    """Make the previous champion of a line champion again, or take its canary out of traffic."""
    import json
    import sys

    from fleet.errors import UsageError
    from fleet.registry.reader import RegistryReader
    from fleet.registry.writer import Registry

    if not reason:
        raise UsageError("rollback needs --reason: it is recorded beside the decision.")
    with RegistryReader(registry) as reader:
        name = reader.resolve(f"{line}@canary" if canary else line).line
    with Registry(registry) as writer:
        if canary:
            withdrawn, restored = writer.drop_canary(name, reason=reason, actor="rollback"), None
        else:
            withdrawn, restored = writer.rollback(name, reason=reason, actor="rollback")
    document = {"line": name, "withdrawn": withdrawn, "champion": restored}
    if as_json:
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    elif restored is None:
        sys.stdout.write(f"{withdrawn} is no canary of {name} any more\n")
    else:
        sys.stdout.write(f"{restored} is champion of {name} again; {withdrawn} was withdrawn\n")
    return 0
