"""Answers in OpenAI's forms: completions and chat, whole or in chunks. Pure.

What OpenAI's forms have no place for stands under `bem`: the id that answered, its role, routing,
plan, session, safety.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bem.engine import Event, TokenInfo
from fleet.serving.answering import Answering

DONE = b"data: [DONE]\n\n"


@dataclass(kw_only=True, slots=True)
class Choice:
    """One answer while it is put together."""

    text: list[str] = field(default_factory=list)
    infos: list[TokenInfo] = field(default_factory=list)
    finish: str = "stop"
    gate: float | None = None
    length: int = 0
    """Characters before the next token, for text_offset."""

    def add(self, event: Event) -> None:
        """What came."""
        self.text.append(event.text)
        self.infos.extend(event.infos)
        self.finish = event.finish or self.finish
        self.gate = event.gate if event.gate is not None else self.gate


class Form:
    """How one endpoint tells an answer."""

    def __init__(
        self, answering: Answering, tokenizer: Any, *, chat: bool, id: str, created_s: int
    ) -> None:
        self._answering = answering
        self._tokenizer = tokenizer
        self._chat = chat
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{id}"
        self._created_s = created_s
        self._first: set[int] = set()

    def whole(self, choices: Sequence[Choice], *, logprobs: bool) -> dict[str, Any]:
        """The whole answer."""
        told = []
        for index, choice in enumerate(choices):
            text = "".join(choice.text)
            one: dict[str, Any] = {"index": index, "finish_reason": choice.finish}
            one["logprobs"] = self._logprobs(choice.infos, 0) if logprobs else None
            if self._chat:
                one["message"] = {"role": "assistant", "content": text, "refusal": None}
            else:
                one["text"] = text
            told.append(one)
        body = self._head("chat.completion" if self._chat else "text_completion")
        body["choices"] = told
        body["usage"] = self._usage()
        body["bem"] = self._extras([choice.gate for choice in choices])
        return body

    def chunk(self, index: int, choice: Choice, event: Event, *, logprobs: bool) -> bytes:
        """One event of one answer."""
        first = index not in self._first
        self._first.add(index)
        one: dict[str, Any] = {"index": index, "finish_reason": event.finish}
        one["logprobs"] = None
        if logprobs and event.infos:
            one["logprobs"] = self._logprobs(event.infos, choice.length)
        choice.length += len(event.text)
        if self._chat:
            delta: dict[str, Any] = {"content": event.text} if event.text or first else {}
            one["delta"] = {"role": "assistant", **delta} if first else delta
        else:
            one["text"] = event.text
        body = self._head("chat.completion.chunk" if self._chat else "text_completion")
        body["choices"] = [one]
        if first:
            body["bem"] = self._extras([event.gate])
        return sse(body)

    def usage_chunk(self) -> bytes:
        """The last chunk, where usage was asked for."""
        body = self._head("chat.completion.chunk" if self._chat else "text_completion")
        return sse({**body, "choices": [], "usage": self._usage()})

    def _head(self, object_: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": object_,
            "created": self._created_s,
            "model": self._answering.resolved.model,
        }

    def _usage(self) -> dict[str, int]:
        read, written = self._answering.prompt_tokens, self._answering.answer_tokens
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        }

    def _extras(self, gates: Sequence[float | None]) -> dict[str, Any]:
        resolved = self._answering.resolved
        found = {"model": resolved.model, "line": resolved.line, "role": resolved.role}
        extras = dict(self._answering.extras)
        if "safety" in extras:
            extras["safety"] = {**extras["safety"], "strength": list(gates)}
        return {**found, **extras}

    def _logprobs(self, infos: Sequence[TokenInfo], offset: int) -> dict[str, Any]:
        if self._chat:
            return {
                "content": [
                    {**self._token(i.token, i.logprob), "top_logprobs": self._top(i)} for i in infos
                ],
                "refusal": None,
            }
        tokens = [self._text(info.token) for info in infos]
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [info.logprob for info in infos],
            "top_logprobs": [{self._text(t): p for t, p in info.top} for info in infos],
            "text_offset": offsets,
        }

    def _top(self, info: TokenInfo) -> list[dict[str, Any]]:
        return [self._token(token, logprob) for token, logprob in info.top]

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._text(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    def _text(self, token: int) -> str:
        loaded = self._answering.loaded
        if loaded is not None and loaded.memory is not None:
            return str(token)
        text: str = self._tokenizer.decode([token])
        return text


def sse(body: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
