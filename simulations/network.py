"""The network in memory: a `Transport` whose requests get lost, come late, come twice, break off or meet a cut line.

A request is a call: the one who asks waits while the other answers, and no time passes. What is late is delivered by
the clock later, when nobody waits for its answer any more. How bytes are limited, and in which errors that ends, is as
`sync.transport` says for the real one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from registry.errors import BadData, LocalFailure
from simulations.clock import Clock
from sync.transport import Broken

CHUNK_BYTES: Final = 64 << 10
HOST: Final = "http://"

Method = Literal["GET", "HEAD", "POST", "PUT"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a node is asked: `path` with its query; `offset` is where a range or a piece of an upload begins."""

    asker: str
    method: Method
    path: str
    body: bytes = b""
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The body in pieces, which may not end, and how much of an upload is held."""

    body: Iterable[bytes] = ()
    offset: int = 0


Serve = Callable[[Request], Answer]  # raises what the asker's transport raises of such an answer


@dataclass(frozen=True, slots=True)
class Weather:
    """Chances, of each request, that it is lost, that its answer is, that it comes late, twice, or breaks off."""

    lost: float = 0.0
    unanswered: float = 0.0
    late: float = 0.0
    twice: float = 0.0
    broken_off: float = 0.0


CALM: Final = Weather()
LONGEST_DELAY_S: Final = 86_400
FAULTS: Final = ("lost", "unanswered", "late", "twice", "broken_off")


class Network:
    """Who can be reached, by host name, and how well."""

    def __init__(self, clock: Clock, chances: random.Random, weather: Weather = CALM) -> None:
        self.weather = weather
        self.moved_bytes: Counter[tuple[str, str]] = Counter()  # (from, to)
        self._clock = clock
        self._chances = chances
        self._hosts: dict[str, Serve] = {}
        self._sides: list[frozenset[str]] = []  # a line is cut where one end lies inside and the other outside

    def join(self, host: str, serve: Serve) -> None:
        """Let a host answer."""
        self._hosts[host] = serve

    def part(self, side: frozenset[str]) -> None:
        """Cut every line between these hosts and the others."""
        self._sides.append(side)

    def mend(self, side: frozenset[str]) -> None:
        """Undo one `part`."""
        self._sides.remove(side)

    def clear(self) -> None:
        """No cut line and calm weather from now on; what is late still comes."""
        self._sides.clear()
        self.weather = CALM

    def reaches(self, one: str, other: str) -> bool:
        """Whether the line between two hosts is whole."""
        return all((one in side) == (other in side) for side in self._sides)

    def ask(self, host: str, request: Request) -> Iterator[Answer]:
        """The answer, once; it may break off behind it. Raises Broken, LocalFailure, or what the host raises."""
        if host not in self._hosts or not self.reaches(request.asker, host):
            raise Broken(f"{host} cannot be reached", "is the peer up, and the address right?")
        self.moved_bytes[request.asker, host] += len(request.path) + len(request.body)
        fault = self._fault()
        if fault == "lost":
            raise Broken(f"the connection to {host} ended early", "try again")
        if fault == "late":
            self._deliver_later(host, request)
            raise LocalFailure(f"{host} took longer than the limit", "try again later")
        if fault == "twice":
            self._deliver_later(host, request)
            self._deliver(host, request)
        answer = self._hosts[host](request)
        if fault == "unanswered":
            raise Broken(f"the connection to {host} ended early", "try again")
        yield answer
        if fault == "broken_off":
            raise Broken(f"the connection to {host} ended early", "try again; what arrived is kept")

    def _fault(self) -> str | None:
        """What happens to one request."""
        left = self._chances.random()
        for name in FAULTS:
            left -= getattr(self.weather, name)
            if left < 0:
                return name
        return None

    def _deliver_later(self, host: str, request: Request) -> None:
        delay_s = self._chances.randint(1, LONGEST_DELAY_S)
        self._clock.after(delay_s, lambda: self._deliver(host, request))

    def _deliver(self, host: str, request: Request) -> None:
        """Nobody waits for this answer."""
        if self.reaches(request.asker, host):
            try:
                self._hosts[host](request)
            except (BadData, LocalFailure):
                return


class MemoryTransport:
    """The requests of one host; see `sync.transport.Transport`."""

    def __init__(self, network: Network, asker: str) -> None:
        self._network = network
        self._asker = asker

    def get(self, url: str, *, max_bytes: int, timeout_s: float) -> bytes:  # noqa: ARG002  no time passes
        """See Transport."""
        return self._whole(url, "GET", max_bytes)

    def get_range(self, url: str, offset: int, *, max_bytes: int, timeout_s: float) -> Iterator[bytes]:  # noqa: ARG002
        """See Transport. What breaks off brings the first half of what it would have brought."""
        host, path = _place(url)
        for answer in self._network.ask(host, Request(self._asker, "GET", path, offset=offset)):
            whole = b"".join(self._pieces(host, url, answer, max_bytes))
            half = len(whole) // 2
            yield whole[:half]
        yield whole[half:]

    def post(self, url: str, body: bytes, content_type: str, *, max_bytes: int, timeout_s: float) -> bytes:  # noqa: ARG002
        """See Transport."""
        return self._whole(url, "POST", max_bytes, body)

    def offset(self, url: str, *, timeout_s: float) -> int:  # noqa: ARG002
        """See Transport."""
        return self._held(url, "HEAD", 0, b"")

    def put_range(self, url: str, offset: int, body: bytes, *, timeout_s: float) -> int:  # noqa: ARG002
        """See Transport."""
        return self._held(url, "PUT", offset, body)

    def _whole(self, url: str, method: Method, max_bytes: int, body: bytes = b"") -> bytes:
        host, path = _place(url)
        for answer in self._network.ask(host, Request(self._asker, method, path, body)):
            whole = b"".join(self._pieces(host, url, answer, max_bytes))
        return whole

    def _held(self, url: str, method: Method, offset: int, body: bytes) -> int:
        host, path = _place(url)
        for answer in self._network.ask(host, Request(self._asker, method, path, body, offset)):
            held = answer.offset
        return held

    def _pieces(self, host: str, url: str, answer: Answer, max_bytes: int) -> Iterator[bytes]:
        received = 0
        for piece in answer.body:
            received += len(piece)
            self._network.moved_bytes[host, self._asker] += len(piece)
            if received > max_bytes:
                raise BadData(f"{url} answered with more than {max_bytes} bytes", "nothing was kept")
            yield piece


def url_of(host: str) -> str:
    """The address of a host."""
    return f"{HOST}{host}"


def _place(url: str) -> tuple[str, str]:
    host, slash, path = url.removeprefix(HOST).partition("/")
    return host, slash + path
