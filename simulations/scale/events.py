"""Events in the order of their times, and who works when: the two clocks of a simulation."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable
from itertools import count
from typing import Any, TypeVar

What = TypeVar("What")

Run = Callable[[int, float, float], float]  # node, when it is asked to, seconds of work -> when it is done


class Events:
    """What happens when; of the same moment, what was planned first comes first."""

    def __init__(self) -> None:
        self._planned: list[tuple[float, int, Callable[[float, Any], None], Any]] = []
        self._numbers = count()
        self.played = 0

    def plan(self, at: float, happen: Callable[[float, What], None], what: What) -> None:
        """Let something happen at a moment that is not over."""
        heapq.heappush(self._planned, (at, next(self._numbers), happen, what))

    def play(self, on_played: Callable[[int], None], every: int = 100_000) -> None:
        """Until nothing is planned any more."""
        while self._planned:
            at, _, happen, what = heapq.heappop(self._planned)
            happen(at, what)
            self.played += 1
            if self.played % every == 0:
                on_played(self.played)


def processors(nodes: int, shared: int) -> Run:
    """A core for each node, or so many `shared` by all of them where it is not 0."""
    return _shared_cores(shared) if shared else _one_core_each(nodes)


def _one_core_each(nodes: int) -> Run:
    """Every node works on one thing after the other, in the order in which they come."""
    free = array("d", bytes(8 * nodes))

    def run(node: int, at: float, seconds: float) -> float:
        free[node] = max(at, free[node]) + seconds
        return free[node]

    return run


def _shared_cores(cores: int) -> Run:
    """All nodes on one machine: whatever comes goes to the core that is free first."""
    free = [0.0] * cores

    def run(node: int, at: float, seconds: float) -> float:  # noqa: ARG001  whose work it is does not matter
        done = max(at, heapq.heappop(free)) + seconds
        heapq.heappush(free, done)
        return done

    return run
