"""A registry with every kind of model over a tiny base; none has learnt anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bem import BaseModel
from fleet.serving import trial
from fleet.serving.settings import ServingSettings

REFERENCE = "tiny"


@dataclass(kw_only=True)
class Shop:
    """A registry and what stands in it."""

    base: BaseModel
    registry: Path
    ids: dict[str, str] = field(default_factory=dict)

    def settings(self, **fields: object) -> ServingSettings:
        return ServingSettings.model_validate(
            {"registry": self.registry, "base": str(self.base.folder), "port": 0, "poll_s": 0.05}
            | fields
        )


def stock(base: BaseModel, registry: Path, *names: str) -> Shop:
    """Registers the kinds that are named."""
    shop = Shop(base=base, registry=registry)
    writes = {
        "plain": ("adapter", "P", trial.adapter(base, 1, size=0.2, kind="lora", rank=2)),
        "hinted": (
            "adapter",
            "H",
            trial.adapter(
                base, 2, size=0.2, kind="generated", rank=2, hints=("formal",), modes=("careful",)
            ),
        ),
        "overlay": ("overlay", "C", trial.overlay(base, 3, size=0.2)),
        "planner": ("planner", "A", trial.planner(base, 4)),
        "memory": ("memory", "E", trial.memory(5)),
    }
    for name in names or writes:
        kind, mission, write = writes[name]
        over = None if kind == "memory" else base
        shop.ids[name] = trial.register(
            registry, kind, mission, write, base=over, reference=REFERENCE
        )
    return shop
