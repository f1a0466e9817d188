"""The OpenAPI document: what each route may answer, and how one gets in. Data only."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from fleet.serving.guard import ADMIN

_ERROR = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_USAGE = {
    "type": "object",
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
    "properties": {
        name: {"type": "integer", "minimum": 0}
        for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    },
}
_BEM = {"type": "object", "required": ["model", "line", "role"]}


def _answer(object_: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage", "bem"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": object_},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "choices": {"type": "array", "items": choice},
            "usage": _USAGE,
            "bem": _BEM,
        },
    }


_CHOICE: dict[str, Any] = {
    "type": "object",
    "required": ["index", "finish_reason", "logprobs"],
    "properties": {
        "index": {"type": "integer"},
        "finish_reason": {"enum": ["stop", "length"]},
        "logprobs": {"type": ["object", "null"]},
    },
}
_BODIES: dict[str, dict[str, Any]] = {
    "completion": _answer(
        "text_completion",
        {
            **_CHOICE,
            "required": [*_CHOICE["required"], "text"],
            "properties": {**_CHOICE["properties"], "text": {"type": "string"}},
        },
    ),
    "chat": _answer(
        "chat.completion",
        {
            **_CHOICE,
            "required": [*_CHOICE["required"], "message"],
            "properties": {
                **_CHOICE["properties"],
                "message": {"type": "object", "required": ["role", "content"]},
            },
        },
    ),
    "models": {
        "type": "object",
        "required": ["object", "data"],
        "properties": {
            "object": {"const": "list"},
            "data": {
                "type": "array",
                "items": {"type": "object", "required": ["id", "object", "created", "owned_by"]},
            },
        },
    },
    "health": {
        "type": "object",
        "required": ["ok", "problem"],
        "properties": {"ok": {"type": "boolean"}, "problem": {"type": "string"}},
    },
    "admin": {"type": "object", "required": ["registry_version", "models", "engine"]},
    "feedback": {
        "type": "object",
        "required": ["object", "id", "line", "waiting"],
        "properties": {"object": {"const": "feedback"}, "waiting": {"type": "integer"}},
    },
    "feedback_status": {"type": "object", "required": ["enabled", "learners"]},
}
_WORDS = {
    400: "A field that does not parse, or that cannot be done.",
    401: "No token, or a wrong one.",
    403: "A client's token where the admin's is asked for.",
    404: "No such model is served.",
    408: "The request was not complete in time.",
    409: "A session that is in use, or another model's.",
    413: "The body is too large.",
    415: "The body is not JSON by its type.",
    421: "No token is needed here, and the Host header is no name of this server.",
    429: "Too many requests; Retry-After says when.",
    500: "The model failed on this input.",
    503: "The server is starting, or it stops.",
    504: "The answer did not come in time.",
}
_ALWAYS = (421, 500)
"""Of every route."""
_STATUSES = {
    "completion": (400, 401, 404, 408, 409, 413, 415, 429, 503, 504),
    "chat": (400, 401, 404, 408, 409, 413, 415, 429, 503, 504),
    "models": (401, 408, 413, 429),
    "metrics": (401, 408, 413, 429),
    "health": (408, 413),
    "admin": (400, 401, 403, 408, 413, 415, 429),
    "feedback": (400, 401, 404, 408, 413, 415, 429, 503),
    "feedback_status": (401, 403, 408, 413, 429),
}


def responses(what: str) -> dict[int | str, dict[str, Any]]:
    """Every status of a route with the form of its body."""
    found: dict[int | str, dict[str, Any]] = {}
    if what == "metrics":
        found[200] = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    else:
        content = {"application/json": {"schema": _BODIES[what]}}
        if what in ("completion", "chat"):
            event = {"type": "object", "required": ["data"]}
            content["text/event-stream"] = {"schema": event}
        found[202 if what == "feedback" else 200] = {
            "description": "The answer.",
            "content": content,
        }
    if what == "health":
        found[503] = {
            "description": _WORDS[503],
            "content": {"application/json": {"schema": _BODIES["health"]}},
        }
    for status in (*_STATUSES[what], *_ALWAYS):
        found[status] = {
            "description": _WORDS[status],
            "content": {"application/json": {"schema": _ERROR}},
        }
    return found


def describe(api: FastAPI, *, auth: bool, max_tokens: int, names: bool) -> None:
    """Give the app its document: without FastAPI's own 422, with the token where one is needed.

    Args:
        names: whether messages may have a name: a chat template alone knows what to do with it.
    """

    def document() -> dict[str, Any]:
        if api.openapi_schema is None:
            made = get_openapi(title=api.title, version=api.version, routes=api.routes)
            for path, operations in made["paths"].items():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
                    if path in ("/healthz", "/readyz") or not (auth or path.startswith(ADMIN)):
                        continue
                    operation["security"] = [{"bearer": []}]
            for name in ("CompletionBody", "ChatBody"):
                fields = made["components"]["schemas"][name]["properties"]
                for field in ("max_tokens", "max_completion_tokens"):
                    if field in fields:
                        fields[field]["anyOf"][0]["maximum"] = max_tokens
            if not names:
                del made["components"]["schemas"]["Message"]["properties"]["name"]
            schemes = {"bearer": {"type": "http", "scheme": "bearer"}}
            made.setdefault("components", {})["securitySchemes"] = schemes
            api.openapi_schema = made
        return api.openapi_schema

    api.openapi = document  # type: ignore[method-assign]
