"""Requests from another terminal: whole files, one answer each, rubbish set aside."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from fleet.driver import requests
from fleet.settings import RunPaths


def test_a_request_is_answered_once(tmp_path: Path) -> None:
    paths = RunPaths(root=tmp_path)
    assert requests.pending(paths) == []
    number = requests.ask(paths, "cancel", "A", "plain")

    def driver() -> None:
        while not requests.pending(paths):
            time.sleep(0.01)
        for request in requests.pending(paths):
            requests.answer(paths, request, ok=True, text=f"{request.mission}:{request.arm}")

    thread = threading.Thread(target=driver)
    thread.start()
    answer = requests.wait_for_answer(paths, number, timeout_s=10)
    thread.join()
    assert answer == requests.Answer(ok=True, text="A:plain")
    assert list(paths.control.iterdir()) == []


def test_a_request_that_nobody_takes_up_is_withdrawn(tmp_path: Path) -> None:
    paths = RunPaths(root=tmp_path)
    number = requests.ask(paths, "stop")
    assert requests.wait_for_answer(paths, number, timeout_s=0.2) is None
    assert requests.pending(paths) == []


def test_rubbish_and_old_requests(tmp_path: Path) -> None:
    paths = RunPaths(root=tmp_path)
    requests.ask(paths, "stop")
    for name, content in {"a": "{", "b": '{"kind": "format the disk"}', "c": "x" * 70_000}.items():
        (paths.control / f"{name}.request.json").write_text(content)
    assert [request.kind for request in requests.pending(paths)] == ["stop"]
    assert len(list(paths.control.glob("*.unreadable"))) == 3
    requests.forget(paths)
    assert requests.pending(paths) == []
