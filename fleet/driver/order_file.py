"""`order.json` in a run's folder: what the launch was asked for, written before anything starts.

A resume compares it with what the same words mean today. Knows specifications as plain data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from fleet.alerts.config import AlertConfig
from fleet.errors import NotFoundError, StorageError
from fleet.ledger.files import write_durably
from fleet.settings import RunPaths
from missions.spec import MissionSpec


class OrderFile(BaseModel):
    """A launch as it was asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    missions: tuple[str, ...]
    """As resolved: never empty."""
    arms: tuple[str, ...]
    profile: str
    overrides: tuple[str, ...]
    cpus: int
    """As asked; 0 takes every usable core."""
    address: str | None
    catalog: str
    command: str
    code_version: str
    registry: str | None
    """Where promotions go; None leaves the registry alone."""
    alerts: AlertConfig | None = None
    """Thresholds of the alerts; None takes the defaults."""
    storage: str = ""
    """Where the ledger is copied to; empty where it is not."""
    specs: dict[str, dict[str, Any]]
    """Mission -> specification as the words above meant it then."""

    def parsed(self) -> dict[str, MissionSpec]:
        """The specifications."""
        return {name: MissionSpec.model_validate(plain) for name, plain in self.specs.items()}


def plain_specs(specs: Sequence[MissionSpec]) -> dict[str, dict[str, Any]]:
    """Specifications as `order.json` holds them."""
    return {spec.id: spec.model_dump(mode="json") for spec in specs}


def write_order(paths: RunPaths, order: OrderFile) -> None:
    """Writes it whole or not at all."""
    write_durably(paths.order, order.model_dump_json(indent=1).encode())


def read_order(paths: RunPaths) -> OrderFile:
    """Reads it.

    Raises:
        NotFoundError: a run of the days before there was one.
        StorageError: it cannot be read.
    """
    try:
        return OrderFile.model_validate_json(paths.order.read_bytes())
    except FileNotFoundError:
        raise NotFoundError(
            f"{paths.order} is missing: the run was launched by an older version, or ended before "
            "it had begun, and cannot be resumed.",
            go_on="python fleet.py launch with another --run-id",
        ) from None
    except (ValidationError, OSError) as error:
        text = " ".join(str(error).split())
        raise StorageError(f"{paths.order}: cannot be read: {text}") from None
