"""What another server may take of us: bytes and seconds, whoever reads its answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, cast

import httpx

from node.serving.errors import Unavailable

ERROR_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Limits:
    """What another server may take.

    `read_s` bounds the wait for the next byte, `whole_s` one whole answer. `retry_after_s` is the longest wait that the
    server may ask for before another of `attempts`.
    """

    connect_s: float = 10.0
    read_s: float = 120.0
    whole_s: float = 3_600.0
    max_event_bytes: int = 4 << 20
    max_body_bytes: int = 256 << 20
    attempts: int = 3
    retry_after_s: float = 20.0


NORMAL: Final = Limits()


class BoundedTransport(httpx.AsyncHTTPTransport):
    """HTTP whose answers are limited in bytes and time, whoever reads them. Proxies of the environment are not used."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        super().__init__(trust_env=False)
        self._limits = limits
        self._clock = clock

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx."""
        response = await super().handle_async_request(request)
        response.stream = _Bounded(response, request.url.host, self._limits, self._clock)
        return response


class _Bounded(httpx.AsyncByteStream):
    """The bytes of an answer, no more of them and no longer than a server may take."""

    def __init__(self, response: httpx.Response, host: str, limits: Limits, clock: Callable[[], float]) -> None:
        self._inner = cast(httpx.AsyncByteStream, response.stream)
        self._host = host
        self._limits = limits
        self._clock = clock
        self._end = clock() + limits.whole_s
        self._most = limits.max_body_bytes if response.is_success else ERROR_BYTES
        self._events = "text/event-stream" in response.headers.get("content-type", "")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes as they come. Raises Unavailable when they are too many or take too long."""
        total = event = 0
        before = b""
        async for chunk in self._inner:
            total += len(chunk)
            joined = before + chunk.replace(b"\r", b"")
            blank = joined.rfind(b"\n\n")
            event = len(joined) - blank if blank >= 0 else event + len(chunk)
            before = joined[-1:]
            if total > self._most or (self._events and event > self._limits.max_event_bytes):
                raise Unavailable(f"{self._host} sends more than it may", "raise its limits if it is right")
            if self._clock() > self._end:
                raise Unavailable(f"{self._host} took longer than {self._limits.whole_s:g} s", "try again")
            yield chunk

    async def aclose(self) -> None:
        """Close the connection, or give it back."""
        await self._inner.aclose()
