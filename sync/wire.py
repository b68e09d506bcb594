"""The socket under a request to a peer: which addresses may be contacted, and one deadline for the whole exchange.

A name is resolved once and the connection goes to the address that was checked (`sync.address`), so that a second
answer of the name server cannot lead elsewhere.
Every wait, from connecting to the last byte, is cut to what is left until the deadline, so that a peer that sends a
byte now and then cannot hold us. What is said over the socket is left to `sync.transport`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpcore
import httpx

from registry.errors import LocalFailure
from sync.address import Address, Reach, resolve

Moved = Callable[[int], None]


class Deadline:
    """A moment on a monotonic clock, `limit_s` after it was made (T6)."""

    def __init__(self, limit_s: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._end = clock() + limit_s
        self.limit_s = limit_s

    def left_s(self) -> float:
        """Seconds until the deadline; never negative."""
        return max(0.0, self._end - self._clock())

    def cut(self, timeout_s: float | None) -> float:
        """A wait that does not outlast the deadline. Raises httpcore.ReadTimeout when it has passed."""
        left_s = self.left_s()
        if left_s <= 0:
            raise httpcore.ReadTimeout("the deadline has passed")
        return left_s if timeout_s is None else min(timeout_s, left_s)


class _Stream(httpcore.NetworkStream):
    """A connection whose every operation ends by the deadline, and whose bytes are counted."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline, moved: Moved) -> None:
        self._stream = stream
        self._deadline = deadline
        self._moved = moved

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._stream.read(max_bytes, self._deadline.cut(timeout))
        self._moved(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)  # in pieces: each socket operation may wait for the timeout anew
        for start in range(0, len(view), 1 << 16):
            piece = bytes(view[start : start + (1 << 16)])
            self._moved(len(piece))
            self._stream.write(piece, self._deadline.cut(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, self._deadline.cut(timeout))
        return _Stream(secured, self._deadline, self._moved)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    """Connects to the checked address of the peer (P4), whatever host the libraries above read out of its URL."""

    def __init__(self, deadline: Deadline, peer: Address, reach: Reach, moved: Moved) -> None:
        self._deadline = deadline
        self._peer = peer
        self._reach = reach
        self._moved = moved

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002  the library's signature
        port: int,  # noqa: ARG002
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            addresses = resolve(self._peer, self._reach)
        except LocalFailure as error:
            raise httpcore.ConnectError(error.message) from error
        for address in addresses[:-1]:
            try:
                return self._connect(address, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._connect(addresses[-1], timeout, local_address, socket_options)

    def _connect(self, address: str, timeout: float | None, *rest: Any) -> httpcore.NetworkStream:
        plain = httpcore.SyncBackend().connect_tcp(address, self._peer.port, self._deadline.cut(timeout), *rest)
        return _Stream(plain, self._deadline, self._moved)


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


class BoundedTransport(httpx.BaseTransport):
    """The transport of one httpx client for one exchange; its exceptions are httpcore's.

    `moved` is told of every piece that goes over the socket, in bytes; what it raises ends the exchange.
    """

    def __init__(
        self,
        deadline: Deadline,
        peer: Address,
        reach: Reach,
        ssl_context: ssl.SSLContext | None,
        moved: Moved = lambda count: None,
    ) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context, max_connections=1, network_backend=_Backend(deadline, peer, reach, moved)
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request and read the head of its answer."""
        url = request.url
        response = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(response.status, headers=response.headers, stream=_Body(response))

    def close(self) -> None:
        """Close the connection."""
        self._pool.close()
