"""Simulated time: events in order, and watches that are wrong. Nothing waits; the clock jumps from event to event."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

Act = Callable[[], None]

MAX_EVENTS: Final = 100_000  # of one run: two nodes that answer each other for ever are found


class EndlessError(RuntimeError):
    """The events of a run never end: a mistake in what was simulated."""


class Clock:
    """True time in whole seconds from `start` on, and what is to happen; events of one second in their order."""

    def __init__(self, start: datetime) -> None:
        self._start = start
        self._queue: list[tuple[int, int, Act]] = []
        self._events = 0
        self.at_s = 0

    @property
    def now(self) -> datetime:
        """The true time."""
        return self._start + timedelta(seconds=self.at_s)

    def after(self, delay_s: float, act: Act) -> None:
        """Let something happen, `delay_s` from now."""
        self.at(self.at_s + max(0, round(delay_s)), act)

    def at(self, when_s: int, act: Act) -> None:
        """Let something happen at a time, counted from the start."""
        self._events += 1
        heapq.heappush(self._queue, (when_s, self._events, act))

    def run(self, until_s: int) -> None:
        """Let happen all that is due until a time, which then is now. Raises EndlessError."""
        while self._queue and self._queue[0][0] <= until_s:
            self.at_s, _, act = heapq.heappop(self._queue)
            act()
            if self._events > MAX_EVENTS:
                raise EndlessError(f"more than {MAX_EVENTS} events until second {self.at_s}")
        self.at_s = until_s


@dataclass
class Watch:
    """What one node believes the time to be: the true time and its own error."""

    clock: Clock
    skew: timedelta = field(default_factory=timedelta)

    def now(self) -> datetime:
        """The time on this node."""
        return self.clock.now + self.skew
