"""Gates: what a mission must show, fixed before the run.

Each file of this folder that defines `CONFIG` (a pydantic model) and `evaluate` is a gate kind;
adding one touches no other file. `GateConfig` is the union of all of them, discriminated by
`kind`, for use inside other pydantic models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from stats.gates.base import GateBase, GateContext
from stats.gates.registry import evaluate_gate, gate_kinds, gate_modules, parse_gate

if TYPE_CHECKING:
    GateConfig = GateBase
else:
    GateConfig = Annotated[
        Union[tuple(module.CONFIG for module in gate_modules().values())],  # noqa: UP007
        Field(discriminator="kind"),
    ]

__all__ = [
    "GateBase",
    "GateConfig",
    "GateContext",
    "evaluate_gate",
    "gate_kinds",
    "parse_gate",
]
