"""A small tree of real nodes for faults: a parent at `en`, a child and its sibling below it, each a process.

`Tree` makes the homes once and puts them back for every cycle. A cycle is what a daemon lives for: the child publishes,
the parent checks, releases and lists, child and sibling follow. Processes are forked from a server that has imported
everything, so that a start costs milliseconds; what they run is `node.daemon.run`, and nothing of its inner shape is
known here.
"""

from __future__ import annotations

import shutil
import socket
import sqlite3
import time
import urllib.request
from contextlib import closing, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from tests.daemon_actors import offer, up
from tests.faults.shim import Fault
from tests.forks import LONGEST_S, start, stop

PARENT: Final = "parent"
CHILD: Final = "child"
SIBLING: Final = "sibling"
OFFER: Final = "offer"  # the child's command that publishes; it works in the child's home
PLACES: Final = {PARENT: "en", CHILD: "en/shapes", SIBLING: "en/tools"}
POLL_S: Final = 0.02
ROUNDS_S: Final = 0.1  # between two rounds of a daemon


@dataclass
class Tree:
    """The homes below a folder, their ports, and the processes that run on them."""

    folder: Path
    ports: dict[str, int]
    running: dict[str, BaseProcess] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path) -> Tree:
        """Make the three homes, once; it takes some seconds."""
        folder.mkdir(parents=True, exist_ok=True)
        tree = cls(folder, dict(zip(PLACES, free_ports(len(PLACES)), strict=True)))
        making = start(_make_homes, folder, tree.ports)
        making.join(LONGEST_S)
        if making.exitcode != 0:
            raise AssertionError(f"the homes could not be made: {making.exitcode}")
        return tree

    def home(self, name: str) -> Path:
        """Where a process works."""
        return self.folder / (CHILD if name == OFFER else name)

    def fresh(self) -> None:
        """Nothing runs, and every home is what it was at the beginning."""
        self.stop_all()
        for name in PLACES:
            shutil.rmtree(self.home(name), ignore_errors=True)
            shutil.copytree(self.folder / "fresh" / name, self.home(name))

    def begin(self, name: str, fault: Fault | None = None) -> None:
        """Start a daemon, or the command that publishes, with a fault in it or none."""
        arguments = (self.home(name), self.folder / f"{name}.log", fault)
        if name == OFFER:
            self.running[name] = start(offer, *arguments, PLACES[CHILD], self.folder / "transfer.jsonl")
        else:
            self.running[name] = start(up, *arguments, self.ports[name])

    def is_running(self, name: str) -> bool:
        """Whether it was started and has not ended."""
        return name in self.running and self.running[name].is_alive()

    def stop(self, name: str) -> None:
        """Kill a process, if it was started."""
        if name in self.running:
            stop(self.running.pop(name))

    def stop_all(self) -> None:
        """Kill every process."""
        for name in tuple(self.running):
            self.stop(name)

    def wait_until_ready(self, name: str) -> float:
        """Wait until a daemon answers; how long that took, in seconds."""
        began = time.monotonic()
        while not self.answers(name):
            if not self.is_running(name):
                raise AssertionError(f"the {name} ended with {self.running[name].exitcode} before it answered")
            if time.monotonic() - began > LONGEST_S:
                raise AssertionError(f"the {name} does not answer within {LONGEST_S:g} s")
            time.sleep(POLL_S / 4)
        return time.monotonic() - began

    def answers(self, name: str) -> bool:
        """Whether a daemon answers, and its database with it."""
        with suppress(OSError), urllib.request.urlopen(f"{self.url(name)}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    def url(self, name: str) -> str:
        """Where a daemon listens."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def is_settled(self) -> bool:
        """Whether the cycle is over: the release announced, and child and sibling decided what it means to them."""
        announced = self.ask(PARENT, "SELECT count(*) FROM updates WHERE direction='in' AND state='announced'")
        return announced == [(1,)] and all(self.ask(name, _FOLLOWED) == [(1,)] for name in (CHILD, SIBLING))

    def ask(self, name: str, query: str) -> list[tuple[object, ...]]:
        """Rows of a node's database, read beside its processes; none where it cannot be read now."""
        try:
            with closing(sqlite3.connect(f"file:{self.home(name)}/banyan.db?mode=ro", uri=True)) as database:
                return database.execute(query).fetchall()
        except sqlite3.Error:
            return []


_FOLLOWED: Final = """SELECT count(*) FROM decisions, heads, releases WHERE decisions.kind = 'release.rebase'
    AND heads.path = 'en' AND releases.digest = heads.release AND releases.version = 2"""


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _make_homes(folder: Path, ports: dict[str, int]) -> None:
    """What `Tree.make` does, in a process of its own, since it trains."""
    from tests.daemon_homes import make_homes

    make_homes(folder, ports)
