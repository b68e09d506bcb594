"""One tree from its first day to its last, by the clock: what is played, and the record of what came of it.

    rows come → a client trains (hours) → offers and sends → the parent decides and, by its policy, releases
    → offers that upwards, tells its children → they pull and decide what it means to them

A node that is away neither trains nor sends nor pulls; whoever is there pulls twice a day and when it is told.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from simulations.clock import Clock
from simulations.genesis import START
from simulations.learning.forming import Grown, Seedlings
from simulations.learning.ledger import Ledger
from simulations.learning.playing import Playing
from simulations.learning.scenario import DAY_S, HOUR_S
from simulations.member import Member
from simulations.network import Network
from simulations.rounds import exchange

POLL_S: Final = 12 * HOUR_S
WORK_S: Final = 600
HINT_S: Final = 60


def play(seedlings: Seedlings, playing: Playing, folder: Path) -> dict[str, Any]:
    """Play one cell below a folder that should be in memory; its record, the same for the same arguments."""
    with tempfile.TemporaryDirectory(dir=folder) as homes:
        before, tempfile.tempdir = tempfile.tempdir, homes  # python-tuf receives its files there
        try:
            return Cell(seedlings, playing, Path(homes)).play()
        finally:
            tempfile.tempdir = before


class Cell:
    """The events of one tree."""

    def __init__(self, seedlings: Seedlings, playing: Playing, homes: Path) -> None:
        self._world, self._playing = seedlings.world, playing
        self._clock = Clock(START)
        self._network = Network(self._clock, random.Random(playing.seed))  # noqa: S311  a simulation
        self._tree: Grown = seedlings.grow(playing, homes, self._clock, self._network)
        self._network.moved_bytes.clear()  # the base travels once, whatever the policy
        self._chances = random.Random(f"chances {playing.seed}")  # noqa: S311
        self._waiting: set[str] = set()
        self._ledger = Ledger(self._world, self._tree, self._network)

    def play(self) -> dict[str, Any]:
        """All days, then the record."""
        end_s = self._world.scenario.days * DAY_S
        for path, client in self._tree.clients.items():
            for at_s, rows in client.days.visits:
                self._clock.at(at_s, partial(self._arrive, path, rows))
            self._every(client.days.poll_s, partial(self._poll_client, path))
        for number, path in enumerate(self._tree.listeners):
            self._every(number * HOUR_S, partial(self._poll_listener, path))
        for number, (path, node) in enumerate(self._tree.inner.items()):
            node.member.wake = partial(self._wake, path)
            self._every(number * HOUR_S // 2, partial(self._poll_inner, path))
        for day in range(self._world.scenario.days + 1):
            self._clock.run(day * DAY_S)
            self._ledger.note_day(day)
        self._clock.run(end_s)
        return self._ledger.record(end_s)

    def _every(self, first_s: int, act: Callable[[], None]) -> None:
        for at_s in range(first_s, self._world.scenario.days * DAY_S, POLL_S):
            self._clock.at(at_s, act)

    # Clients

    def _arrive(self, path: str, rows: int) -> None:
        client = self._tree.clients[path]
        client.here = min(len(client.rows), client.here + rows)
        self._begin(path)

    def _begin(self, path: str) -> None:
        client = self._tree.clients[path]
        if client.wants_to_train and not client.is_away():
            client.busy = True
            self._clock.after(client.training_s(), partial(self._trained, path))

    def _trained(self, path: str) -> None:
        client = self._tree.clients[path]
        client.busy = False
        client.train_and_offer()
        self._ledger.pushes += 1
        self._poll_client(path)

    def _poll_client(self, path: str) -> None:
        client = self._tree.clients[path]
        if not client.is_away():
            self._pull(client.member)
            self._begin(path)

    def _pull(self, member: Member) -> bool:
        """A round with the parent; whether something new is here."""
        if member.parent is None:
            return False
        return bool(exchange(member, member.parent, self._chances.random()).pulled)

    # Inner nodes

    def _wake(self, path: str) -> None:
        if path not in self._waiting:
            self._waiting.add(path)
            self._clock.after(WORK_S, partial(self._look, path))

    def _look(self, path: str) -> None:
        self._waiting.discard(path)
        node = self._tree.inner[path]
        found = node.look()
        if found.again is not None:
            wait_s = (found.again - self._clock.now).total_seconds()
            self._clock.after(max(WORK_S, wait_s), partial(self._look_again, path))
        if found.link is not None:
            self._ledger.note_release(path, self._clock.at_s)
            node.offer_upwards()
            if node.member.parent is not None:
                self._ledger.pushes += 1
                self._poll_inner(path)
            self._tell_children(path)

    def _look_again(self, path: str) -> None:
        self._wake(path)

    def _poll_inner(self, path: str) -> None:
        node = self._tree.inner[path]
        if self._pull(node.member):
            if node.rebase() is not None:
                self._ledger.rebased += 1
            self._tell_children(path)

    def _tell_children(self, path: str) -> None:
        """A hint that there is something new: who is there pulls within minutes."""
        for number, child in enumerate(self._children(path)):
            act = self._pull_of(child)
            self._clock.after(HINT_S * (1 + number), act)

    def _children(self, path: str) -> list[str]:
        place = self._tree.inner[path].place
        return [one for one, member in self._tree.members().items() if member.place.parent == place and one != path]

    def _pull_of(self, path: str) -> Callable[[], None]:
        if path in self._tree.inner:
            return partial(self._poll_inner, path)
        if path in self._tree.clients:
            return partial(self._poll_client, path)
        return partial(self._poll_listener, path)

    def _poll_listener(self, path: str) -> None:
        self._pull(self._tree.listeners[path])
