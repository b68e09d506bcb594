"""What a peer has taken of us, and how much more it may take: bytes, requests and seconds.

Counted where the bytes pass (`sync.wire`), so that headers, refused answers and endless bodies count as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from registry.errors import LocalFailure


class OverBudget(LocalFailure):
    """The peer has had all that it may have for now. Nothing is wrong with it; what was begun goes on later."""


class Meter:
    """The budget of one exchange with one peer (S5); used by one thread."""

    def __init__(
        self, *, max_bytes: int, requests: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.moved_bytes = self.requests = 0
        self.seconds = 0.0
        self._max_bytes, self._max_requests, self._max_seconds = max_bytes, requests, seconds
        self._clock = clock

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request: counted, and its time. Raises OverBudget where none may begin."""
        if self.requests >= self._max_requests or self.moved_bytes >= self._max_bytes:
            raise self._over()
        if self.left_s <= 0:
            raise OverBudget(f"the {self._max_seconds:g} s of this round are used up", "the next round goes on")
        self.requests += 1
        began = self._clock()
        try:
            yield
        finally:
            self.seconds += max(0.0, self._clock() - began)

    @property
    def left_s(self) -> float:
        """Seconds that requests may still take."""
        return max(0.0, self._max_seconds - self.seconds)

    def moved(self, count: int) -> None:
        """Bytes went over the wire, in either direction. Raises OverBudget when they are too many."""
        self.moved_bytes += count
        if self.moved_bytes > self._max_bytes:
            raise self._over()

    def _over(self) -> OverBudget:
        return OverBudget(
            f"the peer has had {self.moved_bytes:,} bytes and {self.requests:,} requests, all that one may have today",
            "wait for the next day, or: node config set peer_bytes_per_day N",
        )
