"""Who asks nearly together is read together."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bem import AdapterHost, load_base
from bem.engine import Engine, EngineLoop, Event, Limits, Request
from bem.engine import loop as loop_module
from bem.testing import write_tiny_base

torch.set_num_threads(1)
REQUEST = Request(prompt_ids=(5, 6, 7), max_tokens=4)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with AdapterHost(load_base(write_tiny_base(tmp_path / "base"))) as host:
        yield Engine(host, Limits(rows=8, positions=32))


def burst(loop: EngineLoop, count: int, apart_s: float = 0.0) -> int:
    """Asks, waits for all answers; the steps that they took."""
    before = loop.engine.load.steps
    ended = threading.Semaphore(0)

    def hear(event: Event) -> None:
        if event.finish is not None:
            ended.release()

    for _ in range(count):
        loop.submit(REQUEST, hear)
        time.sleep(apart_s)
    for _ in range(count):
        assert ended.acquire(timeout=20)
    return loop.engine.load.steps - before


def test_those_who_were_answered_together_are_read_together_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "GATHER_S", 5.0)
    monkeypatch.setattr(loop_module, "QUIET_S", 1.0)
    for _ in range(4):
        engine.submit(REQUEST, lambda event: None)
    with EngineLoop(engine) as loop:
        burst(loop, 4)
        steps = burst(loop, 4, apart_s=0.05)
    assert steps <= REQUEST.max_tokens + 1


def test_nobody_waits_long_for_those_who_do_not_come_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "GATHER_S", 60.0)
    monkeypatch.setattr(loop_module, "QUIET_S", 0.05)
    for _ in range(4):
        engine.submit(REQUEST, lambda event: None)
    with EngineLoop(engine) as loop:
        burst(loop, 4)
        began = time.monotonic()
        burst(loop, 1)
    assert time.monotonic() - began < 10
