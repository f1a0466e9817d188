"""One log a mission: JSON lines that all its workers write to, capped, without secrets.

Several processes append to one file; rotation is guarded by a lock file beside it. At most two
files of `MAX_BYTES` are kept, so a log never fills a disk.
"""

from __future__ import annotations

import json
import logging
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from concurrent_log_handler import ConcurrentRotatingFileHandler

from fleet.redaction import redactor

MAX_BYTES = 8 << 20
SUFFIX = ".jsonl"


class JsonLines(logging.Formatter):
    """A record as one line of JSON: at, level, source, text, process, traceback where there is."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "source": record.name,
            "text": redactor().text(record.getMessage()),
            "pid": record.process,
        }
        if record.exc_info:
            line["traceback"] = redactor().text(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def mission_log(logs: Path, mission: str) -> Path:
    """Where a mission's log lies."""
    return logs / f"{mission}{SUFFIX}"


def open_mission_log(logs: Path, mission: str, *, max_bytes: int = MAX_BYTES) -> logging.Handler:
    """Sends this process's log records and warnings to the mission's log.

    Returns:
        The handler, for a caller that ends before its process does.
    """
    logs.mkdir(parents=True, exist_ok=True)
    handler: logging.Handler = ConcurrentRotatingFileHandler(
        str(mission_log(logs, mission)), maxBytes=max_bytes, backupCount=1, encoding="utf-8"
    )
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    warnings.simplefilter("default")
    return handler


def show(record: dict[str, Any]) -> str:
    """A record as a person reads it."""
    parts = [str(record.get(key, "")) for key in ("at", "level", "source", "text")]
    lines = [" ".join(part for part in parts if part)]
    if record.get("traceback"):
        lines.append(str(record["traceback"]))
    return "\n".join(lines)


def parse(text: str) -> dict[str, Any]:
    """A line of a log as a record; a line that is no record of ours as its text."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    return found if isinstance(found, dict) else {"text": text}
