"""What is read out of an error: its first words, and what it wraps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bem.errors import first_line as first_line_of_bem
from fleet.driver import ray_session
from fleet.errors import StorageError, UnfitEnvironmentError, cause_of, first_line, last_line


@pytest.mark.parametrize("text", ["", "  \n ", "one", " one\ntwo "])
def test_lines(text: str) -> None:
    error = ConnectionError(text)
    expected = "one" if text.strip() else "ConnectionError"
    assert first_line(error) == first_line_of_bem(error) == expected
    assert last_line(error) == ("two" if "two" in text else expected)
    assert first_line("") == first_line_of_bem("") == "no message"
    assert first_line(text) == first_line_of_bem(text)


def test_an_error_without_words_is_told_as_ray_that_did_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def start(*_: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(ray_session, "_start_local", start)
    monkeypatch.setattr(ray_session, "_check_authentication", lambda: None)
    settings: Any = SimpleNamespace(
        session="", address=None, paths=SimpleNamespace(run_id="r", logs=tmp_path)
    )
    with (
        pytest.raises(UnfitEnvironmentError, match="did not start on this machine: Connection"),
        ray_session.ray_session(settings),
    ):
        pass


class Wrapping(Exception):
    """As Ray and Train wrap what workers raise."""

    def __init__(self, **held: Any) -> None:
        super().__init__("wrapped")
        self.__dict__.update(held)


def test_the_cause_is_found_behind_what_wraps_it() -> None:
    disk = StorageError("full")
    for held in (
        {"cause": disk},
        {"health_check_failure": disk},
        {"worker_failures": {0: ValueError("x"), 1: Wrapping(cause=disk)}},
    ):
        assert cause_of(Wrapping(**held), StorageError) is disk
    chained = RuntimeError("outer")
    chained.__cause__ = Wrapping(cause=chained)
    assert cause_of(chained, StorageError) is None, "a loop ends"
    assert cause_of(None, StorageError) is None
