"""Work that ends when its client leaves, as `asyncio.timeout` ends it after a time. Knows no route.

No task of its own for the work: it runs in the request's, and one more waits for the client's end.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

from fastapi import Request

LOG = logging.getLogger(__name__)


class WhileThere:
    """`async with WhileThere(request) as client:` what is awaited inside is cancelled when the
    client leaves; then the block ends there, and `client.left` is true."""

    def __init__(self, request: Request) -> None:
        self.left = False
        self._request = request

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._watching = asyncio.ensure_future(self._watch())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> bool:
        self._watching.cancel()
        return (
            self.left
            and self._task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        )

    async def _watch(self) -> None:
        try:
            while (await self._request.receive())["type"] != "http.disconnect":
                pass
        except Exception as error:  # noqa: BLE001 - told; whoever cannot be heard has gone
            LOG.warning("a connection broke: %s", error)
        self.left = True
        self._task.cancel()
