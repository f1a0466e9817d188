"""Looking never ends a launch; a ledger that cannot be written does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from fleet.errors import LedgerError
from fleet.ledger.reader import LedgerReader
from fleet.monitor import observability
from fleet.monitor.observability import Observability
from fleet.settings import LaunchSettings, RunPaths


class Told:
    """Stands for the ledger's client: keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def event(self, level: str, source: str, text: str) -> None:
        self.events.append((level, source, text))


@pytest.fixture
def watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Observability, Told]:
    monkeypatch.setattr(observability, "_exporter", lambda ledger: None)
    paths = RunPaths(root=tmp_path)
    settings = LaunchSettings(paths=paths, profile="laptop", command="launch", cpus=1)
    told = Told()
    return Observability(settings, cast("Any", told)), told


class Broken:
    """A reader whose every question fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def meta(self) -> dict[str, Any]:
        raise self.error


def test_a_look_that_fails_is_recorded_once(watching: tuple[Observability, Told]) -> None:
    look, told = watching
    reader = cast("LedgerReader", Broken(ValueError("no such row")))
    for _ in range(3):
        look.look(reader, now=True)
    assert told.events == [
        ("warning", "alerts", "a look at the launch failed: ValueError: no such row")
    ]


def test_trouble_of_the_ledger_is_the_launchs(watching: tuple[Observability, Told]) -> None:
    look, told = watching
    with pytest.raises(LedgerError):
        look.look(cast("LedgerReader", Broken(LedgerError("locked"))), now=True)
    assert told.events == []
