from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from registry.errors import BadData, LocalFailure
from sync.hints import LEAST_PAUSE_S, STREAM_BYTES, listen, open_hints
from sync.transport import Broken, HttpTransport
from tests.sync.test_transport import head_of

Answering = Callable[[Callable[[socket.socket], None]], str]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\r\n"


def stalling_in(stall_s: float) -> HttpTransport:
    return HttpTransport(allow_private=True, stall_s=stall_s)


def sends(*pieces: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        head_of(connection)
        for piece in pieces:
            connection.sendall(piece)
        connection.close()

    return talk


def heard(url: str, stall_s: float = 5.0) -> list[str]:
    with open_hints(stalling_in(stall_s), url) as hints:
        return list(hints)


def test_hints_are_the_names_of_events(answering: Answering) -> None:
    """S1: what else is said is not looked at."""
    stream = HEAD + b': ping\n\nevent: release\ndata: {"path": "../../x"}\nid: 7\n\nevent: verdict\r\ndata: {}\r\n\r\n'
    assert heard(answering(sends(stream))) == ["release", "verdict"]


def test_a_hint_is_passed_on_when_it_comes(answering: Answering) -> None:
    """S1: not when the stream ends."""
    ended = threading.Event()

    def talk(connection: socket.socket) -> None:
        sends_but_stays(connection)
        assert ended.wait(20)
        connection.close()

    def sends_but_stays(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(HEAD + b"event: release\ndata: {}\n\n")

    with open_hints(stalling_in(10), answering(talk)) as hints:
        assert next(hints) == "release"
        ended.set()


@pytest.mark.parametrize(
    "flood",
    [
        b"x" * (1 << 16),  # a line without an end
        b"data: x\n" * (1 << 13),  # an event without an end
        b": ping\n\n" * (1 << 13),
        b"event: release\n\n" * (1 << 12),
    ],
)
def test_a_stream_without_end_is_left_after_a_few_bytes(answering: Answering, flood: bytes) -> None:
    """S2."""
    sent = 0

    def talk(connection: socket.socket) -> None:
        nonlocal sent
        head_of(connection)
        connection.sendall(HEAD)
        while True:
            connection.sendall(flood)
            sent += len(flood)

    with pytest.raises(BadData, match=f"more than {STREAM_BYTES} bytes"):
        heard(answering(talk))
    assert sent < 64 * STREAM_BYTES


def test_a_stream_on_which_nothing_comes_is_left(answering: Answering) -> None:
    """S2."""
    with pytest.raises(LocalFailure, match="took longer"):
        heard(answering(lambda connection: connection.sendall(head_of(connection)[:0] + HEAD)), stall_s=0.3)


def test_a_stream_that_drips_ends_with_its_time(answering: Answering) -> None:
    """S2, slow-loris."""

    def drip(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(HEAD)
        while True:
            connection.sendall(b":")
            time.sleep(0.02)

    began = time.monotonic()
    with (
        pytest.raises(LocalFailure, match=r"limit of 0\.4 s"),
        stalling_in(5).events(answering(drip), max_bytes=1 << 20, timeout_s=0.4) as hints,
    ):
        list(hints)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "head", [b"Content-Type: text/html", b"Content-Type: text/event-stream-not", b"X: text/event-stream"]
)
def test_what_is_no_stream_of_events(answering: Answering, head: bytes) -> None:
    with pytest.raises(BadData, match="does not answer with events"):
        heard(answering(sends(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\nevent: release\n\n")))


def test_the_peer_does_not_choose_the_codec(answering: Answering) -> None:
    head = HEAD.replace(b"text/event-stream", b"text/event-stream; charset=utf-16")
    assert heard(answering(sends(head + b"event: release\ndata: \xff\xfe\n\n"))) == ["release"]


class Streams:
    """Streams one after the other: what each says, or how it fails; then the end."""

    def __init__(self, *streams: list[str] | Exception) -> None:
        self.left = list(streams)
        self.stop = threading.Event()
        self.heard: list[str] = []
        self.pauses: list[int] = []

    @contextmanager
    def open(self) -> Iterator[Iterator[str]]:
        if not self.left:
            self.stop.set()
            raise LocalFailure("the end")
        now = self.left.pop(0)
        if isinstance(now, Exception):
            raise now
        yield iter(now)

    def pause(self, short: int) -> float:
        self.pauses.append(short)
        return 0.0


class Impatient(threading.Event):
    """Waits for nothing, and notes for how long it was to be."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return self.is_set()


def test_listening_goes_on_after_every_kind_of_end() -> None:
    """S2: and a stream that ended early is opened again later and later."""
    streams = Streams(["release"], Broken("away"), BadData("nonsense"), KeyError("a mistake"), ["key", "verdict"])
    streams.stop = stop = Impatient()
    listen(streams.open, streams.heard.append, stop, streams.pause, clock=lambda: 0.0)
    assert [hint for hint in streams.heard if hint not in ("open", "closed")] == ["release", "key", "verdict"]
    assert streams.heard.count("open") == 2
    assert streams.pauses == [1, 2, 3, 4, 5, 6]
    assert stop.waits.count(LEAST_PAUSE_S) == 3  # one for each hint: no more than a round a second


def test_a_stream_that_lasted_is_opened_again_at_once() -> None:
    streams, moments = Streams(["release"], Broken("away"), ["release"]), iter(range(0, 1000, 50))
    streams.stop = stop = Impatient()
    listen(streams.open, streams.heard.append, stop, streams.pause, clock=lambda: float(next(moments)))
    assert streams.pauses == [1, 1, 1, 1]
