"""Daemons as processes on loopback: a hint is followed by a pull long before the next round would be."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from node.api.app import create_app
from node.context import Node
from node.daemon import rounds, run_once
from node.pull import heads_here
from node.rollback import roll_back
from node.settings import Settings
from node.status import status
from registry.documents import BaseManifest
from registry.paths import NodePath
from registry.store import select
from registry.tables import PeerRow
from sync.delta import Delta
from tests.processes import ROOT, NodeProcess
from tests.toy import KNOWN, TOOLS, rows
from tests.toy_tree import SETTINGS, head_of, make_parent, put_toy_release
from tests.world import enrol_child, make_node, utc_now

EN, PATH = NodePath.parse("en"), "en/shapes"
BOUND_S = 60.0  # of a busy machine; alone it takes about two


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until something is so; it fails the test when it never is."""
    deadline, never = time.monotonic() + BOUND_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {BOUND_S:g} s"
        never.wait(0.05)


@contextmanager
def command(home: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of a node as a process, ended at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "node.cli", *words, "--home", str(home)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.terminate()
        said = process.communicate(timeout=BOUND_S)[0].decode()
        assert "Traceback" not in said


def answered(home: Path, *words: str, code: int = 0) -> dict[str, Any]:
    """The JSON of a command."""
    done = subprocess.run(
        [sys.executable, "-m", "node.cli", *words, "--json", "--home", str(home)],
        cwd=ROOT, capture_output=True, timeout=BOUND_S, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr.decode()
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture
def homes(toy_base: Path, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """A parent and a child that asks of itself once a day; the parent serves in a process of its own."""
    rarely = {**SETTINGS, "poll_interval_s": 86_400, "peer_backoff_max_s": 0.5}
    with (
        closing(make_parent(tmp_path / "parent", toy_base)) as parent,
        closing(make_node(tmp_path / "child", PATH, **rarely)) as child,
    ):
        yield parent, child


def next_release(parent: Node, delta: Delta, version: int) -> None:
    old = head_of(parent, "en")
    base = BaseManifest.from_bytes(parent.blobs.read(old.release.base, 1 << 20))
    anchors = [*rows(KNOWN), *rows(TOOLS)]
    put_toy_release(parent, "en", base, version=version, delta=delta, anchors=anchors, previous=old.digest)


def reopened(child: Node) -> Node:
    """The child with the settings that enrolling wrote."""
    return Node(child.home, Settings(home=child.home.root), child.store, child.blobs, child.key)


def test_a_hint_is_followed_by_a_pull_and_a_way_back_too(
    homes: tuple[Node, Node], toy_adapters: dict[str, Delta]
) -> None:
    """S1, S3, G7: `node sync run` at the child, which would look again tomorrow."""
    parent, child = homes
    served = NodeProcess.start(parent.home.root)
    try:
        enrol_child(child, parent, served.url, PATH)
        with command(child.home.root, "sync", "run"):
            until(lambda: any(one.listening_since for one in status(child, utc_now()).peers), "listening")
            until(lambda: _version(child) == 1, "the first release")
            next_release(parent, toy_adapters["en/tools"], 2)
            until(lambda: _version(child) == 2, "the release of a hint")
            roll_back(parent, EN, None, "wrong answers", utc_now())
            until(lambda: _version(child) == 3, "the way back")
            second = answered(child.home.root, "sync", "once", code=4)
            assert "another daemon" in second["error"]["message"]
            assert "another daemon" in answered(child.home.root, "sync", "run", code=4)["error"]["message"]
            seen = answered(child.home.root, "sync", "status")
            assert seen["daemon"] is not None
            assert (seen["peers"][0]["role"], seen["peers"][0]["behind"]) == ("parent", [])
        ended = answered(child.home.root, "sync", "status")
        assert (ended["daemon"], ended["peers"][0]["last_success"]) == (None, seen["peers"][0]["last_success"])
    finally:
        served.kill()


def _version(node: Node) -> int:
    here = heads_here(node)
    return here["en"].version if "en" in here else 0


def test_a_child_finds_its_parent_again_after_a_cut(homes: tuple[Node, Node], toy_adapters: dict[str, Delta]) -> None:
    """S2, S4: killed without a word, and back at the same address."""
    parent, child = homes
    served = NodeProcess.start(parent.home.root)
    enrol_child(child, parent, served.url, PATH)
    child = reopened(child)
    with rounds(child, chance=lambda: 0.5):
        until(lambda: _version(child) == 1, "the first release")
        served.kill()
        until(lambda: all(one.listening_since is None for one in status(child, utc_now()).peers), "deaf")
        next_release(parent, toy_adapters["en/tools"], 2)
        served = NodeProcess.start(parent.home.root, served.port)
        try:
            until(lambda: _version(child) == 2, "the release of the time between")
        finally:
            served.kill()


def test_a_server_ends_at_once_though_somebody_listens(
    homes: tuple[Node, Node], serve: Callable[[FastAPI], str]
) -> None:
    """S1: `serve` waits 20 s for the end and fails beyond it."""
    parent, child = homes
    enrol_child(child, parent, serve(create_app(parent)), PATH)
    child = reopened(child)
    with rounds(child):
        until(lambda: any(one.listening_since for one in status(child, utc_now()).peers), "listening")


def test_one_round_by_hand(homes: tuple[Node, Node], serve: Callable[[FastAPI], str]) -> None:
    parent, child = homes
    enrol_child(child, parent, serve(create_app(parent)), PATH)
    done = run_once(reopened(child), utc_now(), 0.5)
    assert done.exchanged is not None
    assert [(one.path, one.version, one.new) for one in done.exchanged.pulled] == [("en", 1, True)]
    assert run_once(parent, utc_now(), 0.5).exchanged is None


def test_one_round_without_the_parent_says_so(homes: tuple[Node, Node], serve: Callable[[FastAPI], str]) -> None:
    parent, child = homes
    enrol_child(child, parent, serve(create_app(parent)), PATH)
    with child.store.transaction() as session:
        session.scalars(select(PeerRow)).one().url = "http://127.0.0.1:9"
    done = answered(child.home.root, "sync", "once", code=4)
    assert "cannot be reached" in done["error"]["message"]
    assert done["pulled"] == []
