"""A ledger of two planned missions, on a clock that the tests move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.ledger.reader import LedgerReader
from fleet.ledger.writer import Ledger


@pytest.fixture
def ledger(tmp_path: Path, clock: Any, make_plan: Callable[..., Any]) -> Iterator[Ledger]:
    writer = Ledger(tmp_path / "ledger.sqlite", max_tries=2, clock=clock)
    writer.record_plan(make_plan("F1", "F2"), {"command": "test"})
    yield writer
    writer.close()


@pytest.fixture
def reader(ledger: Ledger, tmp_path: Path) -> Iterator[LedgerReader]:
    with LedgerReader(tmp_path / "ledger.sqlite") as view:
        yield view
