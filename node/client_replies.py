"""The replies to the client's calls, read within bounds, and what went wrong in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import httpx

from registry.errors import BadData, LocalFailure

MAX_REPLY_BYTES: Final = 256 << 20
REQUEST_ERRORS: Final = ("invalid_request_error", "authentication_error", "permission_error")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """What is sent where, and how its reply is read (`read` raises on another reply)."""

    place: str
    body: Mapping[str, Any]
    read: Callable[[Any], T]


class Reply:
    """The bytes of a reply that have come and not been read, and what they say."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ended = False

    def add(self, piece: bytes) -> None:
        """Take in a piece; raises LocalFailure when it is too much."""
        self._data += piece
        if len(self._data) > MAX_REPLY_BYTES:
            raise LocalFailure(f"the reply has more than {MAX_REPLY_BYTES:,} bytes", "ask for less at a time")

    def whole(self, call: Call[T], response: httpx.Response) -> T:
        """The whole reply, read."""
        value = _value(self._data)
        _refuse_error(value, response)
        return _understood(call, value)

    def events(self, call: Call[T]) -> Iterator[T]:
        """The server-sent events that are complete; of each only its data, one line of JSON."""
        *lines, rest = self._data.split(b"\n")
        self._data = rest
        for line in lines:
            if line.startswith(b"data:"):
                value = _value(line.removeprefix(b"data:"))
                _refuse_error(value, None)
                self._ended = isinstance(value, dict) and value.get("finish") is not None
                yield _understood(call, value)

    def end(self, response: httpx.Response) -> None:
        """Raise unless a stream ended as it should."""
        if not response.is_success:
            _refuse_error(_value(self._data), response)
        if not self._ended:
            raise LocalFailure("the answer broke off", "ask again; the server's log says more")


def _value(data: bytes | bytearray) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _refuse_error(value: Any, response: httpx.Response | None) -> None:
    """Raise what a reply says went wrong: BadData for a status of the request's fault, else LocalFailure."""
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        kind = BadData if error.get("type") in REQUEST_ERRORS else LocalFailure
        raise kind(error["message"], str(error.get("hint") or ""))
    if response is not None and not response.is_success:
        raise LocalFailure(f"the server answered with status {response.status_code}", "is this the address of a node?")


def _understood(call: Call[T], value: Any) -> T:
    try:
        return call.read(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LocalFailure(
            f"the reply to {call.place} is not one of a node: {error!r:.80}", "is this the address of a node?"
        ) from error


@contextmanager
def explained(url: httpx.URL) -> Iterator[None]:
    """What goes wrong on the way, in words."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise LocalFailure(f"{url} did not answer in time", "raise timeout_s, or ask for fewer tokens") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise LocalFailure(f"{url} cannot be reached: {error}", "is it running? node start MODEL") from error
