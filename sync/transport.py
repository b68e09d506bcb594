"""Requests to a peer, each with a limit of bytes and of time; the one seam between our rules and the network.

`Transport` is what the rest of `sync` sees; `HttpTransport` is the real one, the simulations bring another. Redirects
are not followed, compressed answers are refused (they could unfold without end), cookies and proxies of the
environment are not used. What the bytes mean is left to the callers.
"""

from __future__ import annotations

import json
import logging
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Final, Protocol

import httpcore
import httpx
import stamina
from httpx_sse import EventSource

from registry.errors import BadData, LocalFailure
from sync.address import Network, Reach, read_url
from sync.meter import Meter
from sync.wire import BoundedTransport, Deadline

ERROR_BODY_BYTES: Final = 64 << 10
CHUNK_BYTES: Final = 256 << 10
ATTEMPTS: Final = 3
EVENTS: Final = "text/event-stream"
OFFSET_HEADER: Final = "Upload-Offset"
CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")
LATER: Final = frozenset({408, 425, 429})

logging.getLogger("stamina").addHandler(logging.NullHandler())  # a retry is no news for the terminal; daemons log it


class Refused(BadData):
    """The peer understood the request and said no. `status` is HTTP's, `code` the peer's own word for the reason."""

    def __init__(self, message: str, hint: str, status: int, code: str) -> None:
        super().__init__(message, hint)
        self.status = status
        self.code = code


class Broken(LocalFailure):
    """The peer could not be reached, or the connection ended before the answer did."""


class Transport(Protocol):
    """Requests to peers. All raise LocalFailure (`Broken`, or too slow), BadData on nonsense, `Refused` on a no."""

    def get(self, url: str, *, max_bytes: int, timeout_s: float) -> bytes:
        """The whole answer."""
        ...

    def get_range(self, url: str, offset: int, *, max_bytes: int, timeout_s: float) -> Iterator[bytes]:
        """The bytes from `offset` to the end, in pieces as they arrive; BadData when they are more than `max_bytes`."""
        ...

    def post(self, url: str, body: bytes, content_type: str, *, max_bytes: int, timeout_s: float) -> bytes:
        """Send a document; the whole answer. Only for requests that may arrive twice."""
        ...

    def offset(self, url: str, *, timeout_s: float) -> int:
        """How many bytes of an upload the peer holds."""
        ...

    def put_range(self, url: str, offset: int, body: bytes, *, timeout_s: float) -> int:
        """Append to an upload at `offset`; how many bytes the peer holds then."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may take: seconds to answer and for one file, bytes of a file, seconds that its clock is ahead."""

    answer_s: float = 30.0
    file_s: float = 3_600.0
    max_file_bytes: int = 64 << 30
    clock_skew_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Peer:
    """A node to talk to: its address without a slash at the end, the way to it, and the limits that hold for it."""

    transport: Transport
    url: str
    limits: Limits = field(default_factory=Limits)

    def get(self, path: str, max_bytes: int) -> bytes:
        """The whole answer to a question at a path like `/v1/heads`."""
        return self.transport.get(f"{self.url}{path}", max_bytes=max_bytes, timeout_s=self.limits.answer_s)


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    url: str
    deadline: Deadline
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


class HttpTransport:
    """HTTP with a connection per request, so that each has its own deadline and no thread shares one (T6, T7).

    `allow_private`: contact addresses on this machine and in private networks too, as for a URL that the operator
    typed; `networks` may be contacted in any case (see `sync.address`). `meter` bounds all requests together; with one,
    a transport is for one thread.
    `stall_s`: longest wait for the next byte, within the limit of the request.
    """

    def __init__(
        self,
        *,
        allow_private: bool,
        networks: tuple[Network, ...] = (),
        stall_s: float = 30.0,
        meter: Meter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._meter = meter
        self._reach = Reach(typed=allow_private, networks=networks)
        self._stall_s = stall_s
        self._clock = clock
        self._ssl_context: ssl.SSLContext | None = None

    def get(self, url: str, *, max_bytes: int, timeout_s: float) -> bytes:
        """See Transport."""
        return self._whole(_Call("GET", url, self._deadline(timeout_s)), max_bytes)

    def get_range(self, url: str, offset: int, *, max_bytes: int, timeout_s: float) -> Iterator[bytes]:
        """See Transport."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._opened(_Call("GET", url, self._deadline(timeout_s), headers)) as response:
            if offset and _range_start(response) != offset:
                raise BadData(f"{url} did not answer with the part that was asked for", "tell the peer's operator")
            yield from _pieces(response, url, max_bytes)

    def post(self, url: str, body: bytes, content_type: str, *, max_bytes: int, timeout_s: float) -> bytes:
        """See Transport."""
        call = _Call("POST", url, self._deadline(timeout_s), {"Content-Type": content_type}, body)
        return self._whole(call, max_bytes)

    def offset(self, url: str, *, timeout_s: float) -> int:
        """See Transport."""
        with self._opened(_Call("HEAD", url, self._deadline(timeout_s))) as response:
            return _upload_offset(response, url)

    def put_range(self, url: str, offset: int, body: bytes, *, timeout_s: float) -> int:
        """See Transport."""
        headers = {OFFSET_HEADER: str(offset), "Content-Type": "application/offset+octet-stream"}
        with self._opened(_Call("PUT", url, self._deadline(timeout_s), headers, body)) as response:
            return _upload_offset(response, url)

    def _deadline(self, timeout_s: float) -> Deadline:
        return Deadline(timeout_s if self._meter is None else min(timeout_s, self._meter.left_s), self._clock)

    def _whole(self, call: _Call, max_bytes: int) -> bytes:
        for attempt in _retries(call.deadline):
            with attempt, self._once(call) as response:
                return b"".join(_pieces(response, call.url, max_bytes))
        raise Broken(f"{call.url} could not be reached")  # not reached: the last attempt raises

    @contextmanager
    def events(self, url: str, *, max_bytes: int, timeout_s: float) -> Iterator[Iterator[str]]:
        """The names of server-sent events as they come, until the peer ends, `timeout_s` or `max_bytes`."""
        with self._opened(_Call("GET", url, self._deadline(timeout_s), {"Accept": EVENTS})) as response:
            if response.headers.get("content-type", "").partition(";")[0].strip().lower() != EVENTS:
                raise BadData(f"{url} does not answer with events", "is this the address of a node?")
            # the reader of lines keeps what has no end yet: it gets no more than the limit, and no codec of the peer's
            bounded = httpx.Response(200, headers={"Content-Type": EVENTS}, stream=_Pieces(response, url, max_bytes))
            yield (event.event for event in EventSource(bounded).iter_sse())

    @contextmanager
    def _opened(self, call: _Call) -> Iterator[httpx.Response]:
        """An answer whose head has arrived. Up to there it is tried again; the body is the caller's to resume."""
        with ExitStack() as stack:
            for attempt in _retries(call.deadline):
                with attempt, ExitStack() as trial:
                    response = trial.enter_context(self._once(call))
                    stack.push(trial.pop_all())
            yield response

    @contextmanager
    def _once(self, call: _Call) -> Iterator[httpx.Response]:
        peer = read_url(call.url, typed=self._reach.typed)
        if self._ssl_context is None and peer.scheme == "https":
            self._ssl_context = ssl.create_default_context()
        moved = self._meter.moved if self._meter else lambda count: None
        transport = BoundedTransport(call.deadline, peer, self._reach, self._ssl_context, moved)
        headers = {"User-Agent": "banyan", "Accept-Encoding": "identity", "Connection": "close", **call.headers}
        with (
            self._meter.request() if self._meter else nullcontext(),
            _translated(call),
            httpx.Client(transport=transport, timeout=self._stall_s, trust_env=False) as client,
            client.stream(call.method, call.url, headers=headers, content=call.body) as response,
        ):
            _check_head(response, call.url)
            yield response


class _Pieces(httpx.SyncByteStream):
    """The body of an answer as it comes, bounded, as a stream for a reader of httpx."""

    def __init__(self, response: httpx.Response, url: str, max_bytes: int) -> None:
        self._pieces = _pieces(response, url, max_bytes, piece_bytes=None)

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces


def _retries(deadline: Deadline) -> Iterator[stamina.Attempt]:
    """How often a request is tried (T8)."""
    return iter(
        stamina.retry_context(
            on=Broken, attempts=ATTEMPTS, timeout=deadline.left_s(), wait_initial=0.1, wait_max=1.0, wait_jitter=0.1
        )
    )


@contextmanager
def _translated(call: _Call) -> Iterator[None]:
    """The network's errors in our two families, each naming the address and the limit."""
    try:
        yield
    except httpcore.TimeoutException as error:
        raise LocalFailure(
            f"{call.url} took longer than the limit of {call.deadline.limit_s:g} s",
            "the peer is slow or hangs: try again later; what has arrived is kept",
        ) from error
    except (httpcore.ConnectError, httpcore.NetworkError) as error:
        raise Broken(f"{call.url} cannot be reached: {error}", "is the peer up, and the address right?") from error
    except httpcore.RemoteProtocolError as error:
        raise Broken(
            f"the connection to {call.url} ended early or does not speak HTTP: {error}",
            "try again; what arrived is kept",
        ) from error


def _check_head(response: httpx.Response, url: str) -> None:
    """Raise unless the answer is a plain success. A no comes with the peer's own words."""
    status = response.status_code
    if response.headers.get("content-encoding", "identity") != "identity":
        raise BadData(f"{url} answered with compressed data, which was not asked for", "tell the peer's operator")
    if status in (200, 201, 202, 204, 206):
        return
    if 300 <= status < 400:
        raise BadData(f"{url} answered with a redirect ({status}); redirects are not followed", "ask for the address")
    message, hint, code = _error_words(b"".join(_pieces(response, url, ERROR_BODY_BYTES)))
    if 400 <= status < 500 and status not in LATER:
        raise Refused(f"{url} refused ({status}): {message}", hint, status, code)
    raise LocalFailure(f"{url} could not answer ({status}): {message}", hint or "try again later")


def _error_words(body: bytes) -> tuple[str, str, str]:
    """Message, hint and code of an error body, as text that is safe to print; a foreign body gives empty words."""
    try:
        error = json.loads(body)["error"]
        words = [str(error.get(key, "")) for key in ("message", "hint", "code")]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        words = ["no reason given", "", ""]
    message, hint, code = ("".join(c if c.isprintable() else " " for c in word)[:500] for word in words)
    return message, hint, code


def _range_start(response: httpx.Response) -> int | None:
    """Where a 206 says that its bytes begin (T3)."""
    match = CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    return int(match[1]) if response.status_code == 206 and match else None


def _upload_offset(response: httpx.Response, url: str) -> int:
    text = response.headers.get(OFFSET_HEADER, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise BadData(f"{url} did not say how many bytes it holds", "is this the address of a node?")
    return int(text)


def _pieces(
    response: httpx.Response, url: str, max_bytes: int, piece_bytes: int | None = CHUNK_BYTES
) -> Iterator[bytes]:
    """The body in pieces (H10); BadData as soon as it is, or says that it will be, larger than allowed.

    Pieces are as large as `piece_bytes`, or as they come.
    """
    declared = response.headers.get("content-length", "0")
    received = int(declared) if declared.isascii() and declared.isdecimal() and len(declared) <= 18 else 0
    if received <= max_bytes:
        received = 0
        for piece in response.iter_raw(piece_bytes):
            received += len(piece)
            if received > max_bytes:
                break
            yield piece
        else:
            return
    raise BadData(f"{url} answered with more than {max_bytes} bytes, the most that is allowed here", "nothing was kept")
