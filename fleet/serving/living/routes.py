"""POST /v1/feedback and GET /v1/feedback/status. FastAPI over a desk."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Body as JsonBody
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, StringConstraints

from fleet.serving.documents import responses
from fleet.serving.living.desk import Desk
from fleet.serving.schemas import Strict

_Text = Annotated[str, StringConstraints(min_length=1, max_length=65_536)]


class FeedbackBody(Strict):
    """What the right answer was."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    """A living model, by any name that it is served under; the feedback is its line's."""
    prompt: _Text
    completion: _Text
    """The right answer, whatever was answered."""
    request_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """`x-request-id` of the answer that this is about; none: this request's own."""


def add_feedback(api: FastAPI, desk: Desk, *, admin: bool) -> None:
    """Adds the routes; the status only where there is an admin's token."""

    @api.post("/v1/feedback", status_code=202, responses=responses("feedback"))
    async def feedback(request: Request, body: Annotated[FeedbackBody, JsonBody()]) -> Response:
        """Say what the right answer was; a shadow of the model learns from it."""
        told = await asyncio.to_thread(
            desk.offer,
            body.model,
            body.prompt,
            body.completion,
            body.request_id or request.scope["state"]["request_id"],
        )
        return JSONResponse(told, 202)

    if admin:

        @api.get("/v1/feedback/status", responses=responses("feedback_status"))
        async def status() -> Response:
            """Learners, their counts, the last canary run."""
            return JSONResponse(await asyncio.to_thread(desk.status))
