"""How every error becomes an answer: `{"error": {"message", "hint", "code"}}`, in one place.

What the asker did wrong is said in full. What went wrong on this machine is logged here and said in general, because
our own messages name files and addresses that are nobody else's business.
"""

from __future__ import annotations

import logging
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from registry.errors import BadData, LocalFailure
from sync.inbox import Busy, NotEnrolled, UnknownUpdate

log = logging.getLogger(__name__)


class NotHere(BadData):
    """What was asked for is not here, or not for everybody."""


class TooLarge(BadData):
    """The body is larger than it may be."""


class TooSlow(BadData):
    """The body did not come in time."""


class Conflict(BadData):
    """The request does not fit what is here already."""


class Forbidden(BadData):
    """The asker may not do that."""


# The first class that fits gives the status and the code.
ANSWERS: Final[tuple[tuple[type[Exception], int, str], ...]] = (
    (NotHere, 404, "not_here"),
    (UnknownUpdate, 404, "not_here"),
    (NotEnrolled, 403, "not_enrolled"),
    (Forbidden, 403, "forbidden"),
    (TooLarge, 413, "too_large"),
    (TooSlow, 408, "too_slow"),
    (Conflict, 409, "conflict"),
    (BadData, 400, "bad_data"),
    (Busy, 429, "busy"),
)


def error_body(message: str, hint: str, code: str) -> dict[str, dict[str, str]]:
    """The one form of an error (H1)."""
    return {"error": {"message": message, "hint": hint, "code": code}}


def map_errors(app: FastAPI) -> None:
    """Install the answers to errors (H2)."""
    app.add_exception_handler(BadData, _ours)
    app.add_exception_handler(LocalFailure, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _bug)


def _ours(_: Request, error: Exception) -> JSONResponse:
    for kind, status, code in ANSWERS:
        if isinstance(error, kind) and isinstance(error, BadData | LocalFailure):
            return JSONResponse(error_body(error.message, error.hint, code), status)
    log.error("a request failed here: %s", error)
    return JSONResponse(error_body("this node cannot do that now", "try again later", "unavailable"), 503)


def _http(_: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = {404: "no_such_place", 405: "method_not_allowed"}.get(status, "http")
    return JSONResponse(error_body(str(getattr(error, "detail", "")), "see /openapi.json", code), status)


def _invalid(_: Request, error: Exception) -> JSONResponse:
    first = error.errors()[0] if isinstance(error, RequestValidationError) and error.errors() else {}
    where = ".".join(str(part) for part in first.get("loc", ()))
    return JSONResponse(
        error_body(f"{where}: {first.get('msg', 'not valid')}", "see /openapi.json", "bad_request"), 400
    )


def _bug(_: Request, __: Exception) -> JSONResponse:
    """The server logs what happened (H4); the asker learns nothing of our inside."""
    return JSONResponse(error_body("this node made a mistake", "tell its operator the time", "bug"), 500)
