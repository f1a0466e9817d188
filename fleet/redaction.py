"""Keeps secrets out of ledger, logs and reports: their values are replaced by their names.

What counts as a secret: the value of an environment variable whose name says so, the content of a
file that such a `..._FILE` variable names, and Ray's token. A mission file that carries one is
refused instead, because its hash would change with the redaction. Pure but for reading the
environment once.
"""

from __future__ import annotations

import functools
import io
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

_NAMES = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_KEY|PRIVATE_KEY|WEBHOOK|CREDENTIAL)",
    re.IGNORECASE,
)
_NOT_SECRET = frozenset({"RAY_AUTH_MODE", "TOKENIZERS_PARALLELISM"})
MIN_LENGTH = 8
"""Shorter values would hit ordinary words."""
MAX_FILE_BYTES = 64 << 10


class Redactor:
    """Replaces known secret values in texts and in plain data."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        """
        Args:
            secrets: name -> value; values shorter than `MIN_LENGTH` are left alone.
        """
        self._names = {v: name for name, v in secrets.items() if len(v) >= MIN_LENGTH}
        # The longest first: one secret may be the beginning of another.
        ordered = sorted(self._names, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def text(self, text: str) -> str:
        """The text with every secret replaced by `[redacted NAME]`."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda hit: f"[redacted {self._names[hit.group()]}]", text)

    def data(self, value: Any) -> Any:
        """Plain JSON data with every text in it (keys too) redacted."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.data(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.data(item) for item in value]
        return value

    def found_in(self, text: str) -> str | None:
        """Name of the first secret whose value stands in the text, or None."""
        hit = self._pattern.search(text) if self._pattern is not None else None
        return None if hit is None else self._names[hit.group()]


class RedactedStream(io.TextIOBase):
    """A text stream without the secrets: what is written passes on line by line.

    A line is held until it is whole, because a secret may come in two pieces; `flush` passes on
    what is held. The stream beneath is left open, and its file descriptor is not lent: who wrote
    to that would pass by.
    """

    def __init__(self, beneath: IO[str], redactor: Redactor) -> None:
        self._beneath = beneath
        self._redactor = redactor
        self._held = ""
        self._guard = threading.Lock()  # Ray's and Tune's threads print too

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._guard:
            whole, newline, self._held = (self._held + text).rpartition("\n")
            self._beneath.write(self._redactor.text(whole + newline))
        return len(text)

    def flush(self) -> None:
        with self._guard:
            held, self._held = self._held, ""
            self._beneath.write(self._redactor.text(held))
            self._beneath.flush()


def secrets_of(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    """Name -> value of what is secret in an environment.

    Args:
        home: where Ray keeps its token when no variable says otherwise.
    """
    found: dict[str, str] = {}
    files: dict[str, Path] = {"RAY_AUTH_TOKEN": home / ".ray" / "auth_token"}
    for name, value in environment.items():
        if name in _NOT_SECRET or not _NAMES.search(name) or not value:
            continue
        if name.upper().endswith(("_FILE", "_PATH")):
            files[name] = Path(value)
        else:
            found[name] = value
    for name, path in files.items():
        content = _content(path)
        if content:
            found.setdefault(name, content)
    return found


@functools.cache
def redactor() -> Redactor:
    """The redactor of this process, from the environment as it stands at the first call."""
    return Redactor(secrets_of(os.environ, Path.home()))


def _content(path: Path) -> str:
    try:
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            return ""
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        # Not ours to read, so nothing of it can get into our texts either.
        return ""
