"""How a release of the root comes down to every node: hints, rounds, transfers, checks, and on to the next level."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from simulations.scale.conditions import Conditions
from simulations.scale.costs import Costs
from simulations.scale.events import Events, processors
from simulations.scale.links import Links
from simulations.scale.shape import Shape
from sync.backoff import interval_s, pause_s


@dataclass(frozen=True, slots=True)
class Descended:
    """When each node served the release, in seconds after the root did, and what it took.

    `sent`: bytes that each inner node gave away. `queued_s`: the longest that a child waited for a link.
    """

    arrived: array[float]
    sent: array[float]
    failed: int
    queued_s: float
    events: int


class Descent:
    """One release on its way down."""

    def __init__(self, shape: Shape, costs: Costs, conditions: Conditions, seed: int) -> None:
        self.shape, self.costs, self.conditions = shape, costs, conditions
        self._chance = random.Random(seed).random  # noqa: S311  a simulation that can be repeated
        self._run = processors(shape.nodes, conditions.cores)
        self._events = Events()
        self._links = Links(shape, costs, self._events, self._sent, caching=conditions.caching)
        self._arrived = array("d", bytes(8 * shape.nodes))
        self._answered = array("d", bytes(8 * shape.nodes))  # when the parent has worked for each child
        self._failures = bytearray(shape.nodes)  # in a row, of each child
        self._failed = 0

    def play(self, on_played: Callable[[int], None] = lambda events: None) -> Descended:
        """From the root's release at 0 until every node has it."""
        self._has(0, 0.0)
        self._events.play(on_played)
        return Descended(self._arrived, self._links.sent, self._failed, self._links.longest_wait_s, self._events.played)

    def _has(self, node: int, at: float) -> None:
        """A node serves the release: those below hear of it, at once or when they ask next."""
        costs, conditions = self.costs, self.conditions
        self._links.has(at, node)
        look = at + self._chance() * costs.look_s  # all who listen hear of the same look
        for number, child in enumerate(self.shape.children(node)):
            if number < conditions.listeners:
                heard = look
            else:
                heard = at + self._chance() * interval_s(conditions.poll_s, self._chance())
            self._events.plan(heard, self._wake, child)

    def _wake(self, at: float, child: int) -> None:
        conditions = self.conditions
        if conditions.failing and self._chance() < conditions.failing:
            self._failed += 1
            self._failures[child] = min(self._failures[child] + 1, 255)
            pause = pause_s(self._failures[child], conditions.longest_pause_s, self._chance())
            self._events.plan(at + pause, self._wake, child)
            return
        self._answered[child] = self._run(self.shape.parent(child), at, self.costs.pull_parent_s)
        self._links.ask(at, child)

    def _sent(self, at: float, child: int) -> None:
        self._events.plan(max(at, self._answered[child]) + self.costs.latency_s, self._fetched, child)

    def _fetched(self, at: float, child: int) -> None:
        self._events.plan(self._run(child, at, self.costs.pull_child_s), self._checked, child)

    def _checked(self, at: float, child: int) -> None:
        self._arrived[child] = at
        self._has(child, at)
