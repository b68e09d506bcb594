"""Errors as the clients of the Hub read them: a code and a message in headers, and the message in the body (B5)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from node.api.errors import BEARER, LATER, NotHere, answer_to
from registry.errors import BanyanError

# The one message of a 401 that clients do not take for a repository that is not there.
BAD_TOKEN: Final = "Invalid credentials in Authorization header"  # noqa: S105 - the words, not a token
MAX_HEADER_CHARS: Final = 400


class RepoNotFound(NotHere):
    """There is no such repository, or not for this asker."""


class RevisionNotFound(NotHere):
    """The repository has no such revision, or not for this asker."""


class EntryNotFound(NotHere):
    """The revision has no such file. Clients remember that by the commit."""

    def __init__(self, message: str, commit: str) -> None:
        super().__init__(message, "GET /api/models/{id} lists the files")
        self.commit = commit


class HubRoute(APIRoute):
    """A route whose errors have the Hub's form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the answering of a request."""
        answer = super().get_route_handler()

        async def answer_or_refuse(request: Request) -> Response:
            try:
                return await answer(request)
            except BanyanError as error:
                return refusal(error)
            except RequestValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first.get("loc", ()))
                return refused(400, "BadRequest", f"{where}: {first.get('msg', 'not valid')}")

        return answer_or_refuse


def refusal(error: BanyanError) -> Response:
    """The answer to an error; what went wrong on this machine is said in general only."""
    status, body = answer_to(error)
    said = body["error"]
    code = type(error).__name__ if isinstance(error, NotHere) else str(said["code"])
    message = ". ".join(part for part in (said["message"], said["hint"]) if part)
    answer = refused(status, code, message)
    if isinstance(error, EntryNotFound):
        answer.headers["X-Repo-Commit"] = error.commit
    return answer


def refused(status: int, code: str, message: str) -> Response:
    """An error answer."""
    plain = "".join(char if char.isascii() and char.isprintable() else "?" for char in message)[:MAX_HEADER_CHARS]
    headers = {"X-Error-Code": code, "X-Error-Message": BAD_TOKEN if status == 401 else plain}
    headers |= {401: BEARER, 429: LATER, 503: LATER}.get(status, {})
    return JSONResponse({"error": message}, status, headers)
