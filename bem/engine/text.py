"""Tokens to text while they come: whole characters only, and nothing of a stop string.

What `push` has returned is never taken back: text that may turn out to be the beginning of a stop
string, or half a character, is held until it is known. All pushed text together is what the
tokenizer decodes at once. It knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream


class TextSoFar:
    """The text of one answer."""

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids: list[int] = []
        fast = getattr(tokenizer, "backend_tokenizer", None)
        self._fast: Any = fast
        self._stream = None if fast is None else DecodeStream(skip_special_tokens=True)
        self._known = ""
        """All whole characters so far."""
        self._sent = 0
        self.stopped = False
        """Whether a stop string has come; the text ends before it."""

    def push(self, token: int) -> str:
        """The text that is certain now and was not before."""
        self._ids.append(token)
        if self._stream is not None:
            self._known += self._stream.step(self._fast, token) or ""
        else:
            text = self._all()
            self._known = text[: len(text) - 1] if text.endswith("\ufffd") else text
        return self._release(final=False)

    def finish(self) -> str:
        """The rest, once no token follows."""
        if self.stopped:
            return ""
        whole = self._all()
        if whole.startswith(self._known[: self._sent]):
            self._known = whole
        return self._release(final=True)

    def _all(self) -> str:
        text: str = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return text

    def _release(self, *, final: bool) -> str:
        if self.stopped:
            return ""
        end = len(self._known)
        if self._stop:
            longest = max(len(stop) for stop in self._stop)
            start = max(0, self._sent - longest)
            found = [at for stop in self._stop if (at := self._known.find(stop, start)) >= 0]
            if found:
                self.stopped = True
                end = max(self._sent, min(found))
            elif not final:
                end -= self._held()
        fresh = self._known[self._sent : end]
        self._sent = max(self._sent, end)
        return fresh

    def _held(self) -> int:
        """Characters at the end that may begin a stop string."""
        tail = self._known[self._sent :]
        lengths = [
            size
            for stop in self._stop
            for size in range(1, min(len(stop) - 1, len(tail)) + 1)
            if tail.endswith(stop[:size])
        ]
        return max(lengths, default=0)
