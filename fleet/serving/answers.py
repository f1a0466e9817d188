"""From a parsed body to answers: pin the model, ask engine, planner or memory, tell what comes.

An `Answering` lives as long as its request: the model stays pinned, rows are cancelled when it is
closed. Every answer of it comes from that one id. Knows schemas and models, not HTTP.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from bem.context import RoutingContext
from bem.data import Encoded, pad, pad_id_of
from bem.engine import Branch, Event, Request, Sampling, Ticket
from bem.errors import InvalidInputError, QueueFullError
from bem.model.analysis import analyse
from bem.model.hints import require_known
from fleet.serving.errors import (
    ApiError,
    BadRequestError,
    BusyError,
    ConflictError,
    DeadlineError,
    FailedError,
    UnknownModelError,
)
from fleet.serving.loading import Loaded
from fleet.serving.model_traffic import Outcome
from fleet.serving.prompts import Prompts, too_long
from fleet.serving.schemas import ChatBody, CompletionBody
from fleet.serving.server import Server
from fleet.serving.sessions import fresh, go_on
from fleet.serving.traffic import BASE, Resolved
from missions.agentic_planner.answering import answer as plan_answer

T = TypeVar("T")
Body = CompletionBody | ChatBody


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
            told = await self._queue.get()
            if not self._seen:
                self._seen = True
                self.server.metrics.first_token(time.monotonic() - self._began_s)
            event = told.event
            self.answer_tokens += len(event.tokens)
            if event.finish is not None:
                self._ended += 1
                self._outcome = "answered" if self._ended == self.num_choices else "left"
                self.server.metrics.answer(self.resolved.role, event.finish)
            if event.finish in ("deadline", "error", "cancelled"):
                self._outcome = "failed"
            if event.finish == "deadline":
                raise DeadlineError("The answer was not complete in time.", code="deadline")
            if event.finish in ("error", "cancelled"):
                raise FailedError(event.error or "The answer was cancelled.", code="failed")
            yield told

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

    def ask(self, request: Request, index: int, *, merged: bool) -> None:
        """Ask the engine for answer `index`; `merged`: its events come as one at its end."""

        def deliver(event: Event) -> None:
            self.tell(Told(index=index, event=event))

        outbox = self.server.outbox
        emit: Callable[[Event], None]
        if merged:
            emit = _Merging(lambda event: outbox.put(deliver, event))
        else:
            emit = lambda event: outbox.put(deliver, event)  # noqa: E731
        try:
            self._tickets.append(self.server.loop.submit(request, emit))
        except QueueFullError as error:
            raise BusyError(
                f"The server is busy: {error}", code="server_busy", retry_after_s=1.0
            ) from error
        except InvalidInputError as error:
            raise too_long(str(error), "max_tokens") from error

    async def wait(self, future: Future[T], deadline_s: float) -> T:
        """The result of work on the engine's thread."""
        self._future = asyncio.wrap_future(future)
        try:
            result: T = await asyncio.wait_for(self._future, deadline_s - time.monotonic())
        except TimeoutError:
            raise DeadlineError("The answer was not complete in time.", code="deadline") from None
        except QueueFullError as error:
            raise BusyError(str(error), retry_after_s=1.0) from error
        except InvalidInputError as error:
            raise BadRequestError(str(error)) from error
        return result


class _Merging:
    """Gathers the events of one answer on the engine's thread."""

    def __init__(self, put: Callable[[Event], None]) -> None:
        self._put = put
        self._events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self._events.append(event)
        if event.finish is None:
            return
        self._put(
            Event(
                text="".join(e.text for e in self._events),
                tokens=tuple(token for e in self._events for token in e.tokens),
                infos=tuple(info for e in self._events for info in e.infos),
                finish=event.finish,
                error=event.error,
                gate=self._events[0].gate,
            )
        )


class Answerer:
    """Begins answers over one server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.prompts = Prompts(
            server.base.tokenizer,
            positions=server.engine.positions,
            vocab=int(server.base.text_config.vocab_size),
        )

    async def begin(self, body: Body, *, client: str, key: str | None) -> Answering:
        """Admit a request.

        Args:
            client: stands for its token.
            key: decides who meets a canary; None: the user, else session or prompt.

        Raises:
            ApiError: it cannot be done.
        """
        texts = self._texts(body)
        pinned = self._pin(body.model, key or body.user or body.session or _digest(texts))
        answering = Answering(server=self.server, resolved=pinned[0], loaded=pinned[1])
        try:
            await self._ask(answering, body, texts, client)
        except ApiError as error:
            answering.refuse(error)
            answering.close()
            raise
        except BaseException:
            answering.close()
            raise
        return answering

    def _texts(self, body: Body) -> list[str | list[int]]:
        if isinstance(body, ChatBody):
            most = self.server.settings.limits.messages
            if len(body.messages) > most:
                raise BadRequestError(
                    f"{len(body.messages)} messages; at most {most}.", param="messages"
                )
            return [self.prompts.chat(body.messages)]
        prompt = body.prompt
        if isinstance(prompt, str):
            return [prompt]
        if all(isinstance(part, str) for part in prompt):
            return [part for part in prompt if isinstance(part, str)]
        return [[part for part in prompt if isinstance(part, int)]]

    def _pin(self, name: str, key: str) -> tuple[Resolved, Loaded | None]:
        if name == BASE:
            return Resolved(model=BASE, line=BASE, role="base"), None
        found = self.server.shelf.pin(name, key)
        if found is None:
            view = self.server.shelf.view
            reason = view.skipped.get(name)
            known = ", ".join([BASE, *view.table.names()][:12])
            raise UnknownModelError(
                f"Model {name!r} is not served"
                + (f": {reason}" if reason else f". Known: {known}."),
                param="model",
                code="model_not_found",
            )
        return found

    async def _ask(
        self, answering: Answering, body: Body, texts: Sequence[str | list[int]], client: str
    ) -> None:
        limits = self.server.settings.limits
        answering.num_choices = len(texts) * body.n
        if answering.num_choices > limits.choices:
            raise BadRequestError(
                f"{answering.num_choices} answers asked for; at most {limits.choices}.", param="n"
            )
        deadline_s = time.monotonic() + limits.deadline_s
        loaded = answering.loaded
        if loaded is not None and loaded.memory is not None:
            await self._from_memory(answering, body, texts, client, deadline_s)
            return
        if body.session is not None:
            raise BadRequestError("session is for memory models.", param="session")
        if loaded is not None and loaded.planner is not None:
            await self._from_planner(answering, body, texts, deadline_s)
            return
        if body.search is not None:
            raise BadRequestError("search is for planners.", param="search")
        await self._from_adapters(answering, body, texts, deadline_s)

    # --- adapters and overlays ------------------------------------------------------------------

    async def _from_adapters(
        self,
        answering: Answering,
        body: Body,
        texts: Sequence[str | list[int]],
        deadline_s: float,
    ) -> None:
        loaded = answering.loaded
        strength = {} if loaded is None else dict.fromkeys(loaded.acting, body.adaptation_strength)
        sides = {} if loaded is None else self._sides(loaded, body)
        if loaded is None and (body.hints or body.behavioral_mode is not None):
            param = "context_hints" if body.hints else "behavioral_mode"
            raise BadRequestError("The base knows neither hints nor modes.", param=param)
        branch = self._overlay(answering, body, strength)
        param = "messages" if isinstance(body, ChatBody) else "prompt"
        prompts = [
            self.prompts.encode(text, param)
            if isinstance(text, str)
            else self.prompts.check(text, param)
            for text in texts
        ]
        answering.prompt_tokens = sum(map(len, prompts))
        if body.routing:
            answering.extras["routing"] = await self._routing(answering, prompts, sides, deadline_s)
        seed = body.seed if body.seed is not None else secrets.randbelow(2**31)
        asked = _max_tokens(body)
        requests = []
        for prompt in prompts:
            room = self.server.engine.positions - len(prompt)
            most = min(self.server.settings.limits.default_max_tokens, room)
            for number in range(body.n):
                requests.append(
                    Request(
                        prompt_ids=prompt,
                        max_tokens=self._allowed(asked) if asked is not None else most,
                        strength=strength,
                        sides=sides,
                        branch=branch,
                        sampling=_sampling(body, seed + number),
                        stop=body.stops,
                        logprobs=_logprobs(body),
                        deadline_s=deadline_s,
                        incremental=body.stream,
                    )
                )
        for index, request in enumerate(requests):
            answering.ask(request, index, merged=not body.stream)

    def _sides(self, loaded: Loaded, body: Body) -> dict[str, Any]:
        tables = {name: loaded.tables[name] for name in loaded.acting if name in loaded.tables}
        try:
            require_known([*tables.values()], [body.hints], [body.behavioral_mode])
        except InvalidInputError as error:
            param = "context_hints" if "hint" in str(error).split("'")[0] else "behavioral_mode"
            raise BadRequestError(str(error), param=param) from error
        return {
            name: table.side([body.hints], [body.behavioral_mode]) for name, table in tables.items()
        }

    def _overlay(
        self, answering: Answering, body: Body, strength: dict[str, float]
    ) -> Branch | None:
        """The branch of this request; an overlay that acts everywhere joins `strength` instead."""
        loaded = answering.loaded
        own = loaded.overlay if loaded is not None else None
        knob = body.safety
        if own is not None:
            knob = own.knob if knob is None else knob
        elif knob:
            answering.overlay = self.server.shelf.pin_overlay()
            if answering.overlay is None:
                raise BadRequestError(
                    "No safety overlay is champion here: promote one, or leave safety out.",
                    param="safety",
                )
            own = answering.overlay.overlay
        if own is None or not knob:
            return None
        source = answering.overlay or loaded
        assert source is not None
        answering.extras["safety"] = {"overlay": source.id, "knob": knob}
        if own.everywhere:
            strength[own.adapter] = knob
            return None
        return Branch(adapter=own.adapter, knob=knob, head=own.head)

    def _allowed(self, max_tokens: int) -> int:
        most = self.server.settings.limits.max_tokens
        if max_tokens > most:
            raise BadRequestError(
                f"max_tokens is {max_tokens}; at most {most}.", param="max_tokens"
            )
        return max_tokens

    async def _routing(
        self,
        answering: Answering,
        prompts: Sequence[tuple[int, ...]],
        sides: dict[str, Any],
        deadline_s: float,
    ) -> list[dict[str, Any]]:
        """What `BEMModel.analyze_routing` tells, of each prompt."""
        loaded, host = answering.loaded, self.server.host
        names = () if loaded is None else loaded.acting
        found = []
        for prompt in prompts:
            row = Encoded(prompt_ids=prompt, target_ids=(), id="0", cluster="0")
            batch = pad(
                [row],
                pad_id=pad_id_of(host.base.tokenizer),
                device=host.base.device,
                prompt_only=True,
            )

            def context(batch: Any = batch) -> RoutingContext:
                return RoutingContext(prefix_mask_BT=batch.prefix_mask_BT, sides=sides)

            def measure(batch: Any = batch, context: Any = context) -> dict[str, Any]:
                with torch.no_grad():
                    told = analyse(host, names, batch, [""], context).as_dict()
                told.pop("inputs")
                return told

            found.append(await answering.wait(self.server.loop.call(measure), deadline_s))
        return found

    # --- planners -------------------------------------------------------------------------------

    async def _from_planner(
        self,
        answering: Answering,
        body: Body,
        texts: Sequence[str | list[int]],
        deadline_s: float,
    ) -> None:
        loaded = answering.loaded
        assert loaded is not None
        assert loaded.planner is not None
        refused = {
            "temperature": bool(body.temperature),
            "n": body.n > 1,
            "logprobs": _logprobs(body) is not None,
            "safety": bool(body.safety),
            "context_hints": bool(body.hints),
            "behavioral_mode": body.behavioral_mode is not None,
            "adaptation_strength": body.adaptation_strength != 1.0,
        }
        for param, given in refused.items():
            if given:
                raise BadRequestError(
                    f"A planner answers greedily, with its skills as trained: leave {param} out.",
                    param=param,
                )
        plans = []
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise BadRequestError("A planner reads a text, not token ids.", param="prompt")
            self.prompts.encode(text)
            work = plan_answer(self.server.host, loaded.planner, text, search=body.search)
            made = await answering.wait(self._run(work), deadline_s)
            answering.prompt_tokens += made.prompt_tokens + made.read_tokens
            said = self.server.base.tokenizer(made.text, add_special_tokens=False)["input_ids"]
            plans.append(
                {
                    "plan": made.plan,
                    "retrieved": list(made.retrieved),
                    "written_tokens": made.written_tokens,
                }
            )
            event = Event(text=made.text, tokens=tuple(said), finish="stop")
            answering.tell(Told(index=index, event=_cut(event, body.stops)))
        answering.extras["planner"] = plans

    def _run(self, work: Any) -> Future[Any]:
        try:
            return self.server.loop.run(work)
        except QueueFullError as error:
            raise BusyError(str(error), code="server_busy", retry_after_s=1.0) from error

    # --- memory ---------------------------------------------------------------------------------

    async def _from_memory(
        self,
        answering: Answering,
        body: Body,
        texts: Sequence[str | list[int]],
        client: str,
        deadline_s: float,
    ) -> None:
        loaded = answering.loaded
        assert loaded is not None
        model = loaded.memory
        assert model is not None
        tokens = texts[0]
        if len(texts) > 1 or isinstance(tokens, str):
            raise BadRequestError(
                "This memory model reads token ids of its own streams: give prompt as one list of "
                f"integers from 0 to {model.config.vocab - 1}.",
                param="messages" if isinstance(body, ChatBody) else "prompt",
            )
        wrong = next((t for t in tokens if t >= model.config.vocab), None)
        if wrong is not None:
            raise BadRequestError(
                f"prompt holds token {wrong}; this model has 0 to {model.config.vocab - 1}.",
                param="prompt",
            )
        refused = {
            "n": body.n > 1,
            "stop": bool(body.stops),
            "safety": bool(body.safety),
            "context_hints": bool(body.hints),
            "behavioral_mode": body.behavioral_mode is not None,
            "search": body.search is not None,
            "routing": body.routing,
        }
        for param, given in refused.items():
            if given:
                raise BadRequestError(f"A memory model has no use for {param}.", param=param)
        store = self.server.sessions
        key = "" if body.session is None else f"{client}/{body.session}"
        stream = store.get(key) if key else None
        if stream is None:
            stream = fresh(model, loaded.id)
        if stream.model != loaded.id:
            raise ConflictError(
                f"Session '{body.session}' is a stream of {stream.model}; this request is answered "
                f"by {loaded.id}. Name that id, or begin another session.",
                param="session",
                code="session_model",
            )
        if stream.busy:
            raise ConflictError(
                f"Session '{body.session}' is being read on by another request.",
                param="session",
                code="session_busy",
            )
        asked = _max_tokens(body)
        limits = self.server.settings.limits
        most = limits.default_max_tokens if asked is None else self._allowed(asked)
        seed = body.seed if body.seed is not None else secrets.randbelow(2**31)
        work = go_on(
            model,
            stream,
            tokens,
            max_tokens=most,
            sampling=_sampling(body, seed),
            logprobs=_logprobs(body),
        )
        stream.busy = True
        if key:
            store.put(key, stream)
        try:
            made = await answering.wait(self._run(work), deadline_s)
        finally:
            stream.busy = False
        if key:
            store.put(key, made.stream)
        answering.prompt_tokens = len(tokens)
        answering.extras["session"] = {
            "name": body.session,
            "tokens": made.stream.length,
            "state_bytes": made.stream.num_bytes,
        }
        answering.extras["token_ids"] = list(made.tokens)
        text = " ".join(map(str, made.tokens))
        event = Event(text=text, tokens=made.tokens, infos=made.infos, finish="length")
        answering.tell(Told(index=0, event=event))


def _max_tokens(body: Body) -> int | None:
    if isinstance(body, ChatBody) and body.max_completion_tokens is not None:
        return body.max_completion_tokens
    return body.max_tokens


def _logprobs(body: Body) -> int | None:
    if isinstance(body, ChatBody):
        return (body.top_logprobs or 0) if body.logprobs else None
    return body.logprobs


def _sampling(body: Body, seed: int) -> Sampling:
    return Sampling(temperature=body.temperature or 0.0, top_p=body.top_p or 1.0, seed=seed % 2**63)


def _cut(event: Event, stops: Sequence[str]) -> Event:
    """The same, ended before the first stop string."""
    ends = [at for stop in stops if (at := event.text.find(stop)) >= 0]
    if not ends:
        return event
    return Event(text=event.text[: min(ends)], tokens=event.tokens, finish="stop")


def _digest(texts: Sequence[str | list[int]]) -> str:
    return hashlib.sha256(repr(texts).encode("utf-8", "surrogatepass")).hexdigest()
