"""What the fleet's tests share: the fakes on the path, plans made of them, a clock that is set."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FAKES = Path(__file__).resolve().parent
ROOT = FAKES.parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray reads it once, when it is imported, and some tests import Ray before one launches it.
os.environ.setdefault("RAY_AUTH_MODE", "token")
if str(FAKES) not in sys.path:
    sys.path.insert(0, str(FAKES))


class SetClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def make_plan() -> Callable[..., object]:
    """Plans a campaign of fakes; keyword arguments are params of F1."""

    def make(*missions: str, **params: object) -> object:
        from fake_catalog import fake_spec

        from fleet.plan import plan_campaign

        names = missions or ("F1",)
        specs = [fake_spec(name, **(params if name == "F1" else {})) for name in names]
        return plan_campaign(specs, run_id="r", profile="laptop", code_version="code")

    return make
