"""A parsed body on its way to whatever answers it, and what every kind of model reads of it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from bem.engine import Sampling
from bem.errors import QueueFullError
from fleet.serving.answering import Answering
from fleet.serving.errors import BadRequestError, BusyError
from fleet.serving.prompts import Prompts
from fleet.serving.schemas import ChatBody, CompletionBody
from fleet.serving.server import Server

Body = CompletionBody | ChatBody


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """One request, its model pinned."""

    server: Server
    prompts: Prompts
    answering: Answering
    body: Body
    texts: Sequence[str | list[int]]
    client: str

    @property
    def where(self) -> str:
        """The field that holds the prompt, for errors."""
        return "messages" if isinstance(self.body, ChatBody) else "prompt"

    @property
    def logprobs(self) -> int | None:
        """How many candidates a token are asked for; None: none, not even its own."""
        if isinstance(self.body, ChatBody):
            return (self.body.top_logprobs or 0) if self.body.logprobs else None
        return self.body.logprobs

    def max_tokens(self, default: int) -> int:
        """Of each answer.

        Raises:
            BadRequestError: more than the server allows.
        """
        body = self.body
        asked = body.max_completion_tokens if isinstance(body, ChatBody) else None
        asked = body.max_tokens if asked is None else asked
        if asked is None:
            return default
        most = self.server.settings.limits.max_tokens
        if asked > most:
            raise BadRequestError(f"max_tokens is {asked}; at most {most}.", param="max_tokens")
        return asked

    def seed(self) -> int:
        """The request's own, else a fresh one."""
        return self.body.seed if self.body.seed is not None else secrets.randbelow(2**31)

    def sampling(self, seed: int) -> Sampling:
        """How tokens are drawn."""
        return Sampling(
            temperature=self.body.temperature or 0.0,
            top_p=self.body.top_p or 1.0,
            seed=seed % 2**63,
        )

    def encode(self, text: str) -> tuple[int, ...]:
        """A text of the request as token ids.

        Raises:
            BadRequestError: it cannot fit, or has no token.
        """
        written = isinstance(self.body, ChatBody) and self.prompts.templated
        return self.prompts.encode(text, self.where, special=not written)

    def refuse(self, given: Mapping[str, bool], said: str) -> None:
        """Refuses fields that this kind of model has no use for.

        Args:
            given: field -> whether the request has it.
            said: the reason, `{param}` stands for the field.
        """
        for param, there in given.items():
            if there:
                raise BadRequestError(said.format(param=param), param=param)

    def run(self, work: Any) -> Future[Any]:
        """Work on the engine's thread, a piece between two of its steps."""
        try:
            return self.server.loop.run(work)
        except QueueFullError as error:
            raise BusyError(str(error), code="server_busy", retry_after_s=1.0) from error
