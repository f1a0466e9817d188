"""What another terminal asks of a run's driver: files in `runs/<id>/control/`.

A request is one JSON file, written whole or not at all; the driver's loop takes it up, acts, and
writes the answer beside it. Knows neither Ray nor the ledger.
"""

from __future__ import annotations

import os
import platform
import time
import uuid
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fleet.ledger.files import write_durably
from fleet.settings import RunPaths

MAX_BYTES = 1 << 16


class Request(BaseModel):
    """One thing that a user asks for while the run goes on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    kind: Literal["stop", "cancel"]
    mission: str = ""
    arm: str = ""
    """Empty: the whole mission."""
    pid: int
    host: str
    at: float


class Answer(BaseModel):
    """What the driver made of a request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ok: bool
    text: str


def ask(paths: RunPaths, kind: Literal["stop", "cancel"], mission: str = "", arm: str = "") -> str:
    """Leaves a request for the driver; returns its id."""
    number = f"{time.time_ns()}-{uuid.uuid4().hex[:8]}"
    request = Request(
        id=number,
        kind=kind,
        mission=mission,
        arm=arm,
        pid=os.getpid(),
        host=platform.node(),
        at=time.time(),
    )
    write_durably(_request(paths, number), request.model_dump_json().encode())
    return number


def pending(paths: RunPaths) -> list[Request]:
    """Requests that nobody has answered, oldest first; what is not a request is set aside."""
    found = []
    for path in sorted(paths.control.glob("*.request.json")):
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES} bytes")
            found.append(Request.model_validate_json(path.read_bytes()))
        except FileNotFoundError:
            continue  # withdrawn by who asked
        except (ValidationError, ValueError, OSError):
            path.replace(path.with_suffix(".unreadable"))
    return found


def answer(paths: RunPaths, request: Request, *, ok: bool, text: str) -> None:
    """Tells who asked what became of it; the request is done."""
    content = Answer(ok=ok, text=text).model_dump_json().encode()
    write_durably(_answer(paths, request.id), content)
    _request(paths, request.id).unlink(missing_ok=True)


def wait_for_answer(paths: RunPaths, number: str, *, timeout_s: float) -> Answer | None:
    """The driver's answer, or None where none came in time (the request is withdrawn then)."""
    path = _answer(paths, number)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if path.is_file():
            found = Answer.model_validate_json(path.read_bytes())
            path.unlink()
            return found
        time.sleep(0.1)
    _request(paths, number).unlink(missing_ok=True)
    return None


def forget(paths: RunPaths) -> None:
    """Removes what was asked of an earlier driver: an old `stop` must not end a resume."""
    for path in paths.control.glob("*.json"):
        path.unlink(missing_ok=True)


def _request(paths: RunPaths, number: str) -> Path:
    return paths.control / f"{number}.request.json"


def _answer(paths: RunPaths, number: str) -> Path:
    return paths.control / f"{number}.answer.json"
