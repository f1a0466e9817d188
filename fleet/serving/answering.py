"""One request on its way: its pinned model, the events of its answers, and how it ends.

An `Answering` lives as long as its request: the model stays pinned, rows are cancelled when it is
closed. Every answer of it comes from that one id, before its deadline. Knows neither schemas nor
HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from bem.engine import Event, Request, Ticket
from bem.errors import InvalidInputError, QueueFullError
from fleet.serving.errors import (
    ApiError,
    BadRequestError,
    BusyError,
    DeadlineError,
    FailedError,
    UnreadyError,
)
from fleet.serving.loading import Loaded
from fleet.serving.model_traffic import Outcome
from fleet.serving.prompts import too_long
from fleet.serving.server import Server
from fleet.serving.traffic import Resolved

LOG = logging.getLogger("fleet.serving")
T = TypeVar("T")
GRACE_S = 5.0
"""The engine ends rows at their deadline itself; where it does not, waiting ends so much later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """One event of one of the answers."""

    index: int
    event: Event


@dataclass(kw_only=True, eq=False)
class Answering:
    """One request on its way."""

    server: Server
    resolved: Resolved
    loaded: Loaded | None
    """None: the base."""
    deadline_s: float
    """Of `time.monotonic`."""
    overlay: Loaded | None = None
    """Pinned beside the model, where its branch is another model's."""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    num_choices: int = 1
    extras: dict[str, Any] = field(default_factory=dict)
    """What the answer tells beside OpenAI's fields."""
    _queue: asyncio.Queue[Told] = field(default_factory=asyncio.Queue)
    _tickets: list[Ticket] = field(default_factory=list)
    _future: asyncio.Future[Any] | None = None
    _ended: int = 0
    _began_s: float = field(default_factory=time.monotonic)
    _seen: bool = False
    _closed: bool = False
    _outcome: Outcome | None = "left"
    """None: it was no request to the model."""

    async def events(self) -> AsyncIterator[Told]:
        """Everything until every answer has ended.

        Raises:
            DeadlineError: the time was over first.
            FailedError: the model failed.
        """
        while self._ended < self.num_choices:
            try:
                async with asyncio.timeout(self.left_s() + GRACE_S):
                    told = await self._queue.get()
            except TimeoutError:
                self._outcome = "failed"
                raise _late() from None
            event = told.event
            if not self._seen and (event.tokens or event.finish in ("stop", "length")):
                self._seen = True
                first_s = time.monotonic() if event.first_s is None else event.first_s
                self.server.metrics.first_token(first_s - self._began_s)
            self.answer_tokens += len(event.tokens)
            if event.finish is not None:
                self._ended += 1
                self._outcome = "answered" if self._ended == self.num_choices else "left"
                self.server.metrics.answer(self.resolved.role, event.finish)
            if event.finish in ("deadline", "error", "cancelled"):
                self._outcome = "failed"
            if event.finish == "deadline":
                raise _late()
            if event.finish in ("error", "cancelled"):
                raise FailedError(event.error or "The answer was cancelled.", code="failed")
            yield told

    def left_s(self) -> float:
        """Seconds until the deadline; 0 after it."""
        return max(0.0, self.deadline_s - time.monotonic())

    def close(self) -> None:
        """No one waits any more: rows leave, the model is let go. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for ticket in self._tickets:
            ticket.cancel()
        if self._future is not None and not self._future.done():
            self._future.cancel()
        for model in (self.loaded, self.overlay):
            if model is not None:
                self.server.shelf.release(model.id)
        self.server.metrics.count_tokens(self.prompt_tokens, self.answer_tokens)
        if self._outcome is not None:
            self.server.traffic.add(
                self.resolved.model,
                self._outcome,
                tokens=self.answer_tokens,
                seconds=time.monotonic() - self._began_s,
            )

    def refuse(self, error: ApiError) -> None:
        """It could not be begun: the model's fault, or, below 429, a request that asked nothing."""
        self._outcome = "failed" if error.status >= 429 else None

    # --- how it is begun ------------------------------------------------------------------------

    def tell(self, told: Told) -> None:
        """On the event loop."""
        if not self._closed:
            self._queue.put_nowait(told)

    def ask(self, request: Request, index: int) -> None:
        """Ask the engine for answer `index`."""

        def deliver(event: Event) -> None:
            self.tell(Told(index=index, event=event))

        emit = partial(self.server.outbox.put, deliver)
        try:
            self._tickets.append(self.server.loop.submit(request, emit))
        except QueueFullError as error:
            raise BusyError(
                f"The server is busy: {error}", code="server_busy", retry_after_s=1.0
            ) from error
        except InvalidInputError as error:
            raise too_long(str(error), "max_tokens") from error

    async def wait(self, future: Future[T]) -> T:
        """The result of work on the engine's thread.

        Raises:
            ApiError: too late, too much at once, a request that cannot be done, or a failed model.
        """
        self._future = asyncio.wrap_future(future)
        try:
            # `wait_for` swallows a cancellation that comes together with the result.
            async with asyncio.timeout(self.left_s()):
                result: T = await self._future
        except TimeoutError:
            raise _late() from None
        except QueueFullError as error:
            raise BusyError(str(error), retry_after_s=1.0) from error
        except InvalidInputError as error:
            raise BadRequestError(str(error)) from error
        except asyncio.CancelledError:
            if future.cancelled() and not _this_task_is_cancelled():
                raise UnreadyError("The server stops.", retry_after_s=2.0) from None
            raise
        except Exception as error:
            LOG.exception("%s failed", self.resolved.model)
            raise FailedError(
                f"The model failed: {type(error).__name__}.", code="failed"
            ) from error
        return result


def _late() -> DeadlineError:
    return DeadlineError("The answer was not complete in time.", code="deadline")


def _this_task_is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
