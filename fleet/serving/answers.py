"""From a parsed body to answers: admit it, pin its model, hand it to what answers for its kind.

How adapters, planners and memory models answer stands in `by_adapters`, `by_planner` and
`by_memory`. Knows schemas and models, not HTTP.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

from fleet.serving import by_adapters, by_memory, by_planner
from fleet.serving.answering import Answering
from fleet.serving.asking import Asking, Body
from fleet.serving.errors import ApiError, BadRequestError, UnknownModelError
from fleet.serving.loading import Loaded
from fleet.serving.prompts import Prompts
from fleet.serving.schemas import ChatBody
from fleet.serving.server import Server
from fleet.serving.traffic import BASE, Resolved


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
        answering = Answering(
            server=self.server,
            resolved=pinned[0],
            loaded=pinned[1],
            deadline_s=time.monotonic() + self.server.settings.limits.deadline_s,
        )
        try:
            await self._answer(answering, body, texts, client)
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
            if view.table.meant(name, key) in view.skipped:
                # Why names files of the server: that is for its log and /admin/state.
                said = "It is registered, but could not be loaded; the server's log says why."
            else:
                said = f"Known: {', '.join([BASE, *view.table.names()][:12])}."
            raise UnknownModelError(
                f"Model {name!r} is not served. {said}",
                param="model",
                code="model_not_found",
            )
        return found

    async def _answer(
        self, answering: Answering, body: Body, texts: Sequence[str | list[int]], client: str
    ) -> None:
        limits = self.server.settings.limits
        answering.num_choices = len(texts) * body.n
        if answering.num_choices > limits.choices:
            raise BadRequestError(
                f"{answering.num_choices} answers asked for; at most {limits.choices}.", param="n"
            )
        asking = Asking(
            server=self.server,
            prompts=self.prompts,
            answering=answering,
            body=body,
            texts=texts,
            client=client,
        )
        loaded = answering.loaded
        if loaded is not None and loaded.memory is not None:
            await by_memory.answer(asking)
        elif loaded is not None and loaded.planner is not None:
            await by_planner.answer(asking)
        else:
            await by_adapters.answer(asking)


def _digest(texts: Sequence[str | list[int]]) -> str:
    return hashlib.sha256(repr(texts).encode("utf-8", "surrogatepass")).hexdigest()
