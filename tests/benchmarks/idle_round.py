"""What a child without news costs: one round with its parent, by how many releases the parent lists.

The parent serves in a process of its own; the child's rounds run here, as its daemon runs them: the exchange and the
look at the parent's log. Nothing is new in any of them.
"""

from __future__ import annotations

import http.client
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from node.context import Node, open_node, parent_of
from node.exchange import exchange
from node.pull import pull
from node.settings import Settings
from node.watched_logs import log_round
from registry.tables import PeerStateRow
from sync.chain import serve, signed_link, stored_link
from sync.meter import Meter
from tests.benchmarks.rounds import Figure, Result, Scale, interleaved, milliseconds, seconds
from tests.processes import node_process
from tests.world import enrol_child, make_node, put_base, put_release, utc_now

RELEASES = (1, 100, 2_000)
ROUNDS = 20
PATH, CHILD_PATH = "en/finance", "en/finance/cards"
LONGEST_S = 60.0


@dataclass(frozen=True, slots=True)
class Family:
    """A child that is up to date, and where its parent answers."""

    child: Node
    url: str

    def exchange(self) -> float:
        """The exchange of a round; seconds."""
        return seconds(lambda: must_be_idle(self.child))

    def log(self) -> float:
        """The look at the parent's log; seconds."""
        return seconds(lambda: log_round(self.child, utc_now()))

    def timestamp(self) -> float:
        """The one file of the parent's repository that is asked for each time; seconds."""
        return seconds(self._timestamp)

    def _timestamp(self) -> None:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=LONGEST_S)
        connection.request("GET", "/v1/tuf/metadata/timestamp.json")
        answer = connection.getresponse()
        answer.read()
        connection.close()
        if answer.status != http.client.OK:
            raise RuntimeError(f"{self.url} answered {answer.status}")

    def taken(self) -> tuple[int, int]:
        """Bytes in both directions and requests of one round, exchange and log."""
        before = self._day()
        must_be_idle(self.child)
        after = self._day()
        meter = Meter(max_bytes=1 << 30, requests=1_000, seconds=LONGEST_S)
        log_round(replace(self.child, meter=meter), utc_now())
        return after[0] - before[0] + meter.moved_bytes, after[1] - before[1] + meter.requests

    def _day(self) -> tuple[int, int]:
        with self.child.store.read() as session:
            row = session.get_one(PeerStateRow, parent_of(self.child).key_id)
        return row.day_bytes, row.day_requests


def must_be_idle(child: Node) -> None:
    """One exchange; raises RuntimeError where it failed or brought something."""
    done = exchange(child, utc_now(), 0.5, thorough=False)
    if done.error or done.skipped or done.new:
        raise RuntimeError(f"not an idle round: {done}")


@contextmanager
def family(folder: Path, releases: int) -> Iterator[Family]:
    """A parent with so many versions at one path, and a child that has pulled the last."""
    parent = make_node(folder / "parent", PATH)
    pin = put_release(parent, PATH, put_base(parent))
    with parent.store.read() as session:
        first = stored_link(session, parent.blobs, pin.digest).release
    with parent.store.transaction() as session:
        for version in range(2, releases + 1):
            serve(session, signed_link(first.model_copy(update={"version": version}), parent.key), utc_now())
    with node_process(folder / "parent") as url:
        new = make_node(folder / "child", CHILD_PATH)
        enrol_child(new, parent, url, CHILD_PATH)
        parent.close()
        new.close()
        child = open_node(Settings(home=folder / "child"))
        try:
            pull(child, None, utc_now())
            log_round(child, utc_now())
            yield Family(child, url)
        finally:
            child.close()


def run(scale: Scale) -> Result:
    """Milliseconds, bytes and requests of a round without news."""
    sizes = RELEASES[: 1 if scale.smallest else None]
    figures: dict[str, Figure] = {}
    with ExitStack() as stack:
        families = {
            count: stack.enter_context(family(Path(stack.enter_context(tempfile.TemporaryDirectory())), count))
            for count in sizes
        }
        parts = {
            f"{count:,} listed, {part}": work
            for count, here in families.items()
            for part, work in (("exchange", here.exchange), ("log", here.log), ("timestamp alone", here.timestamp))
        }
        for work in parts.values():
            work()
        figures |= {name: milliseconds(times) for name, times in interleaved(parts, scale.rounds or ROUNDS).items()}
        for count, here in families.items():
            moved, requests = zip(*(here.taken() for _ in range(scale.rounds or 5)), strict=True)
            figures[f"{count:,} listed, bytes"] = Figure.of("bytes", moved)
            figures[f"{count:,} listed, requests"] = Figure.of("requests", requests)
    return Result({"paths": 1}, figures)
