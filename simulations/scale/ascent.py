"""How what the leaves offer comes up to the root: inboxes, verdicts, merges, and on to the next level.

When a node merges is decided by `sync.policy`, when it tries again by `sync.backoff`: the code of real nodes.
"""

from __future__ import annotations

import random
from array import array
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from simulations.scale.conditions import Conditions
from simulations.scale.costs import Costs
from simulations.scale.events import Events, processors
from simulations.scale.shape import Shape
from sync.backoff import interval_s, pause_s
from sync.policy import POLICIES, PolicySettings, PolicyState, Waiting

FOLLOWED: Final = 10_000  # updates of leaves whose way to the root is timed
EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Offer:
    """An update on its way: who sends it, and when the followed ones of the leaves began that are in it."""

    sender: int
    began: list[float]
    failures: int = 0


@dataclass(slots=True)
class _Desk:
    """What lies at a node: offers whose verdict is due, accepted ones, and whether its one loop is at work."""

    pending: list[Offer] = field(default_factory=list)
    coming: int = 0  # that were let in and are not whole yet
    accepted: list[Offer] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)  # of the accepted ones, what a policy sees
    at_work: bool = False
    ask_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Ascended:
    """What came of all offers.

    `ages`: seconds from a leaf's offer to a release of the root with it, of those followed. `releases`: of each inner
    node. `received`: bytes into each inner node. `deepest`: the most offers that waited at each. `busy`: tries that a
    full inbox sent away.
    """

    ages: list[float]
    left_behind: int
    releases: array[int]
    received: array[float]
    deepest: array[int]
    busy: int
    failed: int
    lasted_s: float
    events: int


class Ascent:
    """One update of every leaf, and what becomes of them."""

    def __init__(self, shape: Shape, costs: Costs, conditions: Conditions, seed: int) -> None:
        self.shape, self.costs, self.conditions = shape, costs, conditions
        self._chance = random.Random(seed).random  # noqa: S311  a simulation that can be repeated
        self._policy = POLICIES[conditions.policy]
        self._settings = PolicySettings(
            updates=conditions.every,
            senders=conditions.every,
            weight=float(conditions.every),
            wait_s=conditions.longest_wait_s,
        )
        self._run = processors(shape.nodes, conditions.cores)
        self._events = Events()
        self._desks: defaultdict[int, _Desk] = defaultdict(_Desk)
        self._deciding: dict[int, list[Offer]] = {}
        self._merging: dict[int, list[Offer]] = {}
        inner = shape.first_leaf
        self._link = array("d", bytes(8 * inner))
        self._received = array("d", bytes(8 * inner))
        self._releases, self._deepest = array("l", bytes(8 * inner)), array("l", bytes(8 * inner))
        self._ages: list[float] = []
        self._busy, self._failed, self._last = 0, 0, 0.0

    def play(self, on_played: Callable[[int], None] = lambda events: None) -> Ascended:
        """Every leaf offers once within the window; until nothing moves any more."""
        leaves = range(self.shape.first_leaf, self.shape.nodes)
        every = -(-len(leaves) // FOLLOWED)
        followed = 0
        for number, leaf in enumerate(leaves):
            at = self._chance() * self.conditions.window_s
            began = [at] if number % every == 0 else []
            followed += len(began)
            self._events.plan(at, self._send, Offer(leaf, began))
        self._events.play(on_played)
        return Ascended(
            self._ages, followed - len(self._ages), self._releases, self._received, self._deepest,
            self._busy, self._failed, self._last, self._events.played,
        )  # fmt: skip

    def _send(self, at: float, offer: Offer) -> None:
        costs, conditions = self.costs, self.conditions
        node = self.shape.parent(offer.sender)
        desk = self._desks[node]
        if conditions.failing and self._chance() < conditions.failing:
            self._failed += 1
            offer.failures += 1
            pause = pause_s(offer.failures, conditions.longest_pause_s, self._chance())
            self._events.plan(at + pause, self._send, offer)
            return
        if len(desk.pending) + desk.coming >= conditions.pending:
            self._busy += 1
            self._events.plan(at + interval_s(conditions.poll_s, self._chance()), self._send, offer)
            return
        desk.coming += 1
        self._link[node] = max(at, self._link[node]) + costs.update_bytes / costs.link_bytes_per_s
        self._received[node] += costs.update_bytes
        taken = self._run(node, at, costs.take_in_s)
        self._events.plan(max(self._link[node], taken) + costs.latency_s, self._taken, offer)

    def _taken(self, at: float, offer: Offer) -> None:
        node = self.shape.parent(offer.sender)
        desk = self._desks[node]
        desk.coming -= 1
        desk.pending.append(offer)
        self._deepest[node] = max(self._deepest[node], len(desk.pending))
        if not desk.at_work:
            desk.at_work = True
            self._events.plan(at, self._round, node)

    def _round(self, at: float, node: int) -> None:
        """Everything that waits gets its verdict, as in a round of `node.promotions`."""
        desk = self._desks[node]
        self._deciding[node], desk.pending = desk.pending, []
        seconds = self.costs.check_s * len(self._deciding[node])
        self._events.plan(self._run(node, at, seconds), self._decided, node)

    def _decided(self, at: float, node: int) -> None:
        desk = self._desks[node]
        for offer in self._deciding.pop(node):
            desk.accepted.append(offer)
            desk.waiting.append(Waiting(EPOCH + timedelta(seconds=at), str(offer.sender)))
        self._consider(at, node, desk)

    def _ask(self, at: float, node: int) -> None:
        """Time alone may have changed what the policy says."""
        desk = self._desks[node]
        if not desk.at_work and desk.accepted and at >= desk.ask_at:
            desk.at_work = True
            self._consider(at, node, desk)

    def _consider(self, at: float, node: int, desk: _Desk) -> None:
        now = EPOCH + timedelta(seconds=at)
        children = len(self.shape.children(node))
        said = self._policy(PolicyState(now, tuple(desk.waiting), children), self._settings)
        if said.release:
            self._merging[node], desk.accepted, desk.waiting = desk.accepted, [], []
            seconds = self.costs.merge_s + self.costs.merge_update_s * len(self._merging[node])
            self._events.plan(self._run(node, at, seconds), self._released, node)
            return
        if said.again is not None and desk.ask_at <= at:
            # rounded up by a microsecond, the clock of `datetime`
            desk.ask_at = at + (said.again - now).total_seconds() + 1e-6
            self._events.plan(desk.ask_at, self._ask, node)
        self._go_on(at, node, desk)

    def _released(self, at: float, node: int) -> None:
        self._releases[node] += 1
        self._last = at
        began = [one for offer in self._merging.pop(node) for one in offer.began]
        if node == 0:
            self._ages += [at - one for one in began]
        else:
            self._events.plan(self._run(node, at, self.costs.offer_s), self._send, Offer(node, began))
        self._go_on(at, node, self._desks[node])

    def _go_on(self, at: float, node: int, desk: _Desk) -> None:
        desk.at_work = bool(desk.pending)
        if desk.at_work:
            self._events.plan(at, self._round, node)
