"""Real trees of daemons on loopback in which every leaf publishes: when each node above serves what was learned below.

Leaves have signed their updates beforehand, so what is timed begins with the delivery. Inner nodes check, merge, judge,
release and offer further up, all of one small model; none follows its parent, since the way down is `real`'s.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import psutil

from node.config_file import edit_config
from node.context import Node
from node.offer import make_offer
from node.publish import sign
from node.pull import pull
from registry.documents import BaseManifest
from registry.paths import NodePath
from registry.rows import write_rows
from simulations.scale.shape import Shape
from sync.delta import Delta
from sync.model import load_model
from tests.daemon_actors import offer, up
from tests.daemon_homes import QUICK, put_run
from tests.daemon_tree import free_ports
from tests.forks import LONGEST_S, start, stop
from tests.processes import NodeProcess
from tests.toy import KNOWN, SHAPES, TOOLS, learn, make_base, rows
from tests.toy_tree import head_of, make_parent, put_toy_release, reopened
from tests.world import enrol_child, make_node, utc_now

LOOK_S: Final = 0.05
TABLES: Final = (SHAPES, TOOLS)  # what leaves learn, in turn
LANGUAGES: Final = ("en", "de", "fr", "it")
TRAVEL: Final = 10  # rows with every update
SETTINGS: Final = {
    **QUICK,
    "poll_interval_s": 30.0,  # as usual: nothing here waits for a look
    "log_checkpoint_interval_s": 30.0,
    "follow_parent": False,
    "pass_up": True,
    "pass_up_rows": TRAVEL,
    "policy_every": 2,
    "siblings_max_cosine": 1.0,  # cousins learned the same
    "request_timeout_s": 60.0,
}


def place_of(shape: Shape, node: int) -> str:
    """Where in the tree of paths a node speaks: the root for all, its children for a language each."""
    if node == 0:
        return "master"
    above = shape.parent(node)
    return LANGUAGES[node - 1] if above == 0 else f"{place_of(shape, above)}/n{node}"


@dataclass(frozen=True, slots=True)
class Rise:
    """One time: seconds until each inner node had a new release, and of a core that each node used for it."""

    released: list[float]
    inner_cpu_s: list[float]
    leaf_cpu_s: list[float]


@dataclass
class RisingTree:
    """Homes as they were at the beginning, and the processes that run on copies of them."""

    shape: Shape
    folder: Path
    ports: list[int]
    running: list[BaseProcess] = field(default_factory=list)

    def home(self, node: int) -> Path:
        """Where a node lives."""
        return self.folder / f"node-{node}"

    def rise(self) -> Rise:
        """Let every leaf deliver at once, and wait until the root has what all learned."""
        inner, leaves = range(self.shape.first_leaf), range(self.shape.first_leaf, self.shape.nodes)
        for node in range(self.shape.nodes):
            shutil.rmtree(self.home(node), ignore_errors=True)
            shutil.copytree(self.folder / "fresh" / f"node-{node}", self.home(node))
        self.running = [start(up, self.home(node), self._log(node), None, self.ports[node]) for node in inner]
        try:
            self._wait_until_idle()
            before, began = [self._cpu_s(node) for node in inner], time.monotonic()
            sending = {node: self._deliver(node) for node in leaves}
            used = dict.fromkeys(leaves, 0.0)
            released = self._released(began, sending, used)
            return Rise(released, [self._cpu_s(node) - before[node] for node in inner], list(used.values()))
        finally:
            for process in self.running:
                stop(process)

    def _deliver(self, leaf: int) -> psutil.Process:
        place = place_of(self.shape, leaf)
        process = start(offer, self.home(leaf), self._log(leaf), None, place, self.folder / f"rows-{leaf}.jsonl")
        return psutil.Process(process.pid)

    def _released(self, began: float, sending: dict[int, psutil.Process], used: dict[int, float]) -> list[float]:
        """When each inner node had its second release; meanwhile what the leaves use is written down."""
        missing, found = set(range(self.shape.first_leaf)), [0.0] * self.shape.first_leaf
        while missing:
            now = time.monotonic() - began
            for node in sorted(missing):
                if _version(self.home(node), place_of(self.shape, node)) > 1:
                    found[node] = now
                    missing.remove(node)
            for leaf, process in sending.items():
                used[leaf] = max(used[leaf], _cpu_s(process))
            if now > LONGEST_S:
                raise RuntimeError(f"nodes {sorted(missing)} have released nothing after {LONGEST_S:g} s")
            time.sleep(LOOK_S)
        return found

    def _wait_until_idle(self) -> None:
        """Every daemon has looked once, so that libraries are imported and nothing of its start is counted."""
        before = -1.0
        while (now := sum(map(self._cpu_s, range(self.shape.first_leaf)))) - before > LOOK_S:
            before = now
            time.sleep(2.0)

    def _cpu_s(self, node: int) -> float:
        return _cpu_s(psutil.Process(self.running[node].pid))

    def _log(self, node: int) -> Path:
        return self.folder / f"node-{node}.log"


def _cpu_s(process: psutil.Process) -> float:
    try:
        used = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(used.user + used.system)


def _version(home: Path, path: str) -> int:
    wanted = "SELECT version FROM heads JOIN releases ON digest = release WHERE heads.path = ?"
    with closing(sqlite3.connect(f"file:{home}/banyan.db?mode=ro", uri=True)) as database:
        found = database.execute(wanted, (path,)).fetchone()
    return int(found[0]) if found else 0


@contextmanager
def rising_tree(shape: Shape, folder: Path) -> Iterator[RisingTree]:
    """A tree whose leaves have learned and signed, each over its parent's first release."""
    base = make_base(folder / "base")
    loaded = load_model(base, [], "fp32")
    learned = [learn(loaded, table, "en", folder / f"fit-{at}") for at, table in enumerate(TABLES)]
    tree = RisingTree(shape, folder, free_ports(shape.nodes))
    (folder / "fresh").mkdir()
    root = make_parent(tree.home(0), base, "master", anchors=rows(KNOWN, range(2)))
    edit_config(root.home.config, SETTINGS)
    root.close()
    for node in range(shape.first_leaf):
        served = NodeProcess.start(tree.home(node), tree.ports[node])
        for child in shape.children(node):
            table = TABLES[child % len(TABLES)]
            _make_child(tree, node, child, served.url, table, learned[child % len(learned)])
        served.kill()
    for node in range(shape.nodes):
        shutil.move(tree.home(node), folder / "fresh" / f"node-{node}")
    yield tree


def _make_child(tree: RisingTree, node: int, child: int, url: str, table: dict[str, str], delta: Delta) -> None:
    """A node below another; a leaf has learned and signed what it will send."""
    place, above = place_of(tree.shape, child), place_of(tree.shape, node)
    leaf = child >= tree.shape.first_leaf
    with closing(make_node(tree.home(child), place)) as new, closing(make_node(tree.home(node), above)) as parent:
        enrol_child(new, parent, url, place)
        edit_config(new.home.config, {**SETTINGS, "parent_url": url})
        pull(new, None, utc_now())
        head = head_of(new, above)
        base = BaseManifest.from_bytes(new.blobs.read(head.release.base, 1 << 20))
        put_toy_release(new, place, base, above=head.pin, delta=delta if leaf else None, anchors=rows(KNOWN, range(2)))
    if leaf:
        with closing(reopened(tree.home(child))) as learned:
            _sign(learned, place, table, tree.folder / f"rows-{child}.jsonl")


def _sign(leaf: Node, place: str, table: dict[str, str], travelling: Path) -> None:
    """What a fine-tune leaves, and the update of it, which waits to be sent."""
    put_run(leaf, place, table)
    write_rows(rows(table, range(20, 24))[:TRAVEL], travelling)
    sign(leaf, make_offer(leaf, NodePath.parse(place)), travelling, 0, lambda leaving: True, now=utc_now())
