"""How every error becomes an answer: `{"error": {"message", "hint", "code", "type", "param"}}`, in one place.

This is the form of the OpenAI API with a hint added, so that the clients of both interfaces read every error.

What the asker did wrong is said in full. What went wrong on this machine is logged here and said in general, because
our own messages name files and addresses that are nobody else's business.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from node.jobs.queue import UnknownJob
from node.serving import errors as serving
from node.sessions import UnknownSession
from node.watched_logs import NotFollowed
from registry.errors import BadData, LocalFailure
from sync.inbox import Busy, NotEnrolled, UnknownUpdate

log = logging.getLogger(__name__)


class NotHere(BadData):
    """What was asked for is not here, or not for everybody."""


class TooLarge(BadData):
    """The body is larger than it may be."""


class TooSlow(BadData):
    """The body did not come in time."""


class Unauthorized(BadData):
    """The asker has not shown that they may do that."""


class Conflict(BadData):
    """The request does not fit what is here already."""


class Forbidden(BadData):
    """The asker may not do that."""


# A client that is gone reads no answer; the status is for the log (nginx's).
GONE: Final = 499
BEARER: Final = {"WWW-Authenticate": "Bearer"}
LATER: Final = {"Retry-After": "1"}

# What the OpenAI API calls errors of some statuses; the others are invalid_request_error and server_error.
TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}

# The first class that fits gives the status and the code.
ANSWERS: Final[tuple[tuple[type[Exception], int, str], ...]] = (
    (NotHere, 404, "not_here"),
    (Unauthorized, 401, "invalid_api_key"),
    (serving.UnknownModel, 404, "model_not_found"),
    (serving.Refused, 400, "invalid_value"),
    (serving.Busy, 503, "overloaded"),
    (serving.Unavailable, 503, "unavailable"),
    (UnknownUpdate, 404, "not_here"),
    (UnknownJob, 404, "not_here"),
    (UnknownSession, 404, "not_here"),
    (NotFollowed, 404, "not_followed"),
    (NotEnrolled, 403, "not_enrolled"),
    (Forbidden, 403, "forbidden"),
    (TooLarge, 413, "too_large"),
    (TooSlow, 408, "too_slow"),
    (Conflict, 409, "conflict"),
    (BadData, 400, "bad_data"),
    (Busy, 429, "busy"),
)


def error_body(message: str, hint: str, code: str, status: int, param: str | None = None) -> dict[str, dict[str, Any]]:
    """The one form of an error; `param` is the field of the request that is wrong (H1)."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "hint": hint, "code": code, "type": kind, "param": param}}


def answer_to(error: Exception) -> tuple[int, dict[str, dict[str, Any]]]:
    """The status of an error and what is said about it."""
    for kind, status, general in ANSWERS:
        if isinstance(error, kind) and isinstance(error, BadData | LocalFailure):
            if isinstance(error, serving.Refused):
                return status, error_body(error.message, error.hint, error.code, status, error.field or None)
            return status, error_body(error.message, error.hint, general, status)
    if isinstance(error, BadData | LocalFailure):
        log.error("a request failed here: %s", error)
        return 503, error_body("this node cannot do that now", "try again later", "unavailable", 503)
    return 500, error_body("this node made a mistake", "tell its operator the time", "bug", 500)


def map_errors(app: FastAPI) -> None:
    """Install the answers to errors (H2)."""
    app.add_exception_handler(BadData, _ours)
    app.add_exception_handler(LocalFailure, _ours)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _bug)


def _ours(_: Request, error: Exception) -> JSONResponse:
    status, body = answer_to(error)
    return JSONResponse(body, status, headers={401: BEARER, 503: LATER}.get(status))


def _gone(_: Request, error: Exception) -> Response:  # noqa: ARG001  it says nothing
    return Response(status_code=GONE)


def _http(_: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = {404: "no_such_place", 405: "method_not_allowed"}.get(status, "http")
    headers = error.headers if isinstance(error, HTTPException) else None
    return JSONResponse(
        error_body(str(getattr(error, "detail", "")), "see /openapi.json", code, status), status, headers=headers
    )


def _invalid(_: Request, error: Exception) -> JSONResponse:
    first = error.errors()[0] if isinstance(error, RequestValidationError) and error.errors() else {}
    where = ".".join(str(part) for part in first.get("loc", ()))
    return JSONResponse(
        error_body(f"{where}: {first.get('msg', 'not valid')}", "see /openapi.json", "bad_request", 400, where), 400
    )


def _bug(_: Request, error: Exception) -> JSONResponse:
    """The server logs what happened (H4); the asker learns nothing of our inside."""
    status, body = answer_to(error)
    return JSONResponse(body, status)
