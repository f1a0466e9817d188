"""What an API request can end in: OpenAI's error form with its HTTP status.

ApiError (Exception)
|-- BadRequestError          400   a field that does not parse, or cannot be done
|-- UnauthorizedError        401   no token, or a wrong one
|-- ForbiddenError           403   a client's token where the admin's is asked for
|-- UnknownModelError        404   no such model is served
|-- ConflictError            409   a session that is in use, or whose model is gone
|-- TooLargeError            413
|-- BusyError                429   too many requests of this client, or of all
|-- FailedError              500   the model failed on this input
|-- UnreadyError             503   the server is starting, or it stops
`-- DeadlineError            504   the answer did not come in time

Knows no framework.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ApiError(Exception):
    """Base of the tree."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """OpenAI's form."""
        return error_body(self.message, self.kind, param=self.param, code=self.code)

    def headers(self) -> dict[str, str]:
        """Retry-After, where it is known; a challenge with 401."""
        found = {}
        if self.retry_after_s is not None:
            found["Retry-After"] = str(max(1, round(self.retry_after_s)))
        if self.status == 401:
            found["WWW-Authenticate"] = "Bearer"
        return found


def error_body(
    message: str, kind: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """{"error": {...}}"""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class BadRequestError(ApiError):
    """A field that does not parse, or that cannot be done."""

    status = 400
    kind = "invalid_request_error"


class UnauthorizedError(ApiError):
    """No token, or a wrong one."""

    status = 401
    kind = "authentication_error"


class ForbiddenError(ApiError):
    """A client's token where the admin's is asked for."""

    status = 403
    kind = "permission_error"


class UnknownModelError(ApiError):
    """No such model is served."""

    status = 404
    kind = "invalid_request_error"


class ConflictError(ApiError):
    """A session that is in use, or whose model is gone."""

    status = 409
    kind = "invalid_request_error"


class TooLargeError(ApiError):
    """The body, or what it asks for, is too large."""

    status = 413
    kind = "invalid_request_error"


class SlowClientError(ApiError):
    """The request did not come in time."""

    status = 408
    kind = "invalid_request_error"


class BusyError(ApiError):
    """Too many requests."""

    status = 429
    kind = "rate_limit_error"


class FailedError(ApiError):
    """The model failed on this input."""


class UnreadyError(ApiError):
    """The server is starting, or it stops."""

    status = 503


class DeadlineError(ApiError):
    """The answer did not come in time."""

    status = 504
