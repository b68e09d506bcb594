"""Real trees of daemons on loopback: every node a process, mirroring what the root releases."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from node.config_file import edit_config
from node.context import Node
from registry.documents import BaseManifest
from simulations.scale.shape import Shape
from sync.delta import Delta, scaled
from sync.model import load_model
from tests.daemon_actors import up
from tests.daemon_homes import QUICK
from tests.daemon_tree import free_ports
from tests.forks import start, stop
from tests.processes import NodeProcess
from tests.toy import KNOWN, TOOLS, learn, make_base, rows
from tests.toy_tree import head_of, make_parent, put_toy_release
from tests.world import enrol_child, make_node

NAMES = ("master", "en", "de", "en/a", "en/b", "de/a", "de/b")  # of the nodes that may have children
LOOK_S = 0.05  # between two looks at who has a release
LONGEST_S = 300.0
SETTINGS = {
    **QUICK,
    "poll_interval_s": 30.0,  # as usual: what is measured comes of hints
    "log_checkpoint_interval_s": 30.0,
    "size_max_z": 1e9,  # releases differ in size, which is all that is new in them
    "request_timeout_s": 60.0,
}


def path_of(shape: Shape, node: int) -> str:
    """A place in the tree for each node: four levels at most."""
    return NAMES[node] if node < len(NAMES) else f"{NAMES[shape.parent(node)]}/n{node}"


@dataclass
class RealTree:
    """Homes that are enrolled at each other, and the daemons that run on them."""

    shape: Shape
    folder: Path
    ports: list[int]
    deltas: list[Delta]
    running: list[BaseProcess] = field(default_factory=list)

    def home(self, node: int) -> Path:
        """Where a node lives."""
        return self.folder / f"node-{node}"

    def release(self) -> int:
        """Let the root serve another release, as a command beside its daemon would; its version."""
        with closing(make_node(self.home(0), "master")) as root:
            old = head_of(root, "master")
            version = old.release.version + 1
            base = BaseManifest.from_bytes(root.blobs.read(old.release.base, 1 << 20))
            delta = scaled(self.deltas[version % len(self.deltas)], 0.5 + 0.4 / version)
            put_toy_release(
                root, "master", base, version=version, delta=delta, anchors=[*rows(KNOWN), *rows(TOOLS)],
                previous=old.digest,
            )  # fmt: skip
        return version

    def arrivals(self, version: int, began: float) -> list[float]:
        """Seconds from `began` until each node but the root serves a version. RuntimeError where it takes too long."""
        missing, found = set(range(1, self.shape.nodes)), [0.0] * self.shape.nodes
        looking = {node: sqlite3.connect(f"file:{self.home(node)}/banyan.db?mode=ro", uri=True) for node in missing}
        try:
            while missing:
                now = time.monotonic() - began
                for node in sorted(missing):
                    if _version(looking[node]) >= version:
                        found[node] = now
                        missing.remove(node)
                if now > LONGEST_S:
                    raise RuntimeError(f"nodes {sorted(missing)} have no version {version} after {LONGEST_S:g} s")
                time.sleep(LOOK_S)
        finally:
            for database in looking.values():
                database.close()
        return found[1:]

    def cpu_s(self, node: int) -> float:
        """Seconds of a core that a daemon has used."""
        used = psutil.Process(self.running[node].pid).cpu_times()
        return float(used.user + used.system)


def _version(database: sqlite3.Connection) -> int:
    wanted = "SELECT version FROM heads JOIN releases ON digest = release WHERE heads.path = 'master'"
    found = database.execute(wanted).fetchone()
    return int(found[0]) if found else 0


@contextmanager
def real_tree(shape: Shape, folder: Path) -> Iterator[RealTree]:
    """A tree whose nodes all serve the root's first release and hear each other's hints."""
    tree = _made(shape, folder)
    try:
        for node in range(shape.nodes):
            tree.running.append(start(up, tree.home(node), folder / f"node-{node}.log", None, tree.ports[node]))
        tree.arrivals(1, time.monotonic())
        _settle(tree)
        yield tree
    finally:
        for process in tree.running:
            stop(process)


def _settle(tree: RealTree) -> None:
    """Two releases that do not count: libraries are imported, streams of hints are open."""
    for _ in range(2):
        tree.arrivals(tree.release(), time.monotonic())
        time.sleep(3.0)


def _made(shape: Shape, folder: Path) -> RealTree:
    base = make_base(folder / "base")
    deltas = [learn(load_model(base, [], "fp32"), TOOLS, "en/tools", folder / "fit")]
    tree = RealTree(shape, folder, free_ports(shape.nodes), [*deltas, scaled(deltas[0], 0.7)])
    root = make_parent(tree.home(0), base, "master")
    edit_config(root.home.config, SETTINGS)
    root.close()
    inner = [node for node in range(shape.nodes) if shape.children(node)]
    for node in inner:
        served = NodeProcess.start(tree.home(node), tree.ports[node])
        for child in shape.children(node):
            _enrol(tree, node, child, served.url)
        served.kill()
    return tree


def _enrol(tree: RealTree, node: int, child: int, url: str) -> None:
    place = path_of(tree.shape, child)
    with closing(make_node(tree.home(child), place)) as new, closing(_opened(tree, node)) as parent:
        enrol_child(new, parent, url, place)
        edit_config(new.home.config, {**SETTINGS, "parent_url": url})


def _opened(tree: RealTree, node: int) -> Node:
    return make_node(tree.home(node), path_of(tree.shape, node))
