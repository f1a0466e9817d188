"""One answer in progress: its tokens, when it ends, and what is told of it.

An answer that is asked for as it comes is told token by token, another once, at its end: then
nothing but its tokens is kept meanwhile. It knows neither models nor caches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bem.engine.request import Event, Finish, Ticket, TokenInfo
from bem.engine.sampling import RowSampler
from bem.engine.text import TextSoFar
from bem.mixed.joining import RowState


@dataclass(kw_only=True, slots=True, eq=False)
class Row:
    """An answer in progress."""

    ticket: Ticket
    tokenizer: Any
    state: RowState
    sampler: RowSampler
    length: int
    """Positions in the KV cache."""
    token: int
    """What the next step reads."""
    gate: float | None = None
    """Of its branch."""
    text: TextSoFar | None = field(default=None, init=False)
    """None: the text is made of all tokens at the end."""
    written: int = 0
    first_s: float | None = None
    """When the first token was there."""
    _text: list[str] = field(default_factory=list, init=False)
    """What has come and is not told yet, as are the next two."""
    _tokens: list[int] = field(default_factory=list, init=False)
    _infos: list[TokenInfo] = field(default_factory=list, init=False)
    _told: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        request = self.ticket.request
        if request.incremental or request.stop:
            self.text = TextSoFar(self.tokenizer, request.stop)

    def take(self, token: int, info: TokenInfo | None, *, now: float, eos: bool) -> Finish | None:
        """The next token; why the answer ends with it, if it does."""
        request = self.ticket.request
        self.token = token
        if not self.written:
            self.first_s = now
        self.written += 1
        finish: Finish | None = "stop" if eos else None
        if not eos:
            self._tokens.append(token)
            if info is not None:
                self._infos.append(info)
            if self.text is not None:
                self._text.append(self.text.push(token))
                if self.text.stopped:
                    finish = "stop"
            if finish is None and self.written == request.max_tokens:
                finish = "length"
        if finish is not None:
            self.end(finish)
        elif request.incremental:
            self._tell(None, "")
        return finish

    def end(self, finish: Finish, error: str = "") -> None:
        """Tell all that is left, and why it ends."""
        if finish == "error":
            pass
        elif self.text is not None:
            self._text.append(self.text.finish())
        elif self._tokens:
            self._text.append(self.tokenizer.decode(self._tokens, skip_special_tokens=True))
        self._tell(finish, error)

    def _tell(self, finish: Finish | None, error: str) -> None:
        event = Event(
            text="".join(self._text),
            tokens=tuple(self._tokens),
            infos=tuple(self._infos),
            finish=finish,
            error=error,
            gate=None if self._told else self.gate,
            first_s=None if self._told else self.first_s,
        )
        self._told = True
        self._text, self._tokens, self._infos = [], [], []
        self.ticket.emit(event)
