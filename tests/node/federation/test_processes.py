"""Rounds over real processes: SuperLinks, SuperNodes, the commands that serve and run them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from node.context import Node
from node.federation import joining
from node.federation.joining import Joined, join
from node.federation.running import records
from node.federation.training import trainer
from node.settings import Settings
from registry.documents import BaseManifest
from registry.errors import LocalFailure
from registry.paths import NodePath
from registry.rows import write_rows
from registry.tables import HeadRow
from sync.chain import release_row, stored_chain
from sync.consolidate import merge
from sync.delta import Delta, Factor, read_adapter
from sync.federation.contributions import Asked
from tests.processes import ROOT, node_process
from tests.toy import KNOWN, SHAPES, TOOLS, rows
from tests.toy_tree import SETTINGS, head_of, make_parent, put_toy_release
from tests.world import enrol_child, make_node, utc_now

START_S = 120.0
DEADLINE_S = 25.0
LIAR, LOST = "en/liar", "en/lost"
TABLES = {"en/shapes": SHAPES, "en/tools": TOOLS, LIAR: {"ivy": "saw"}, LOST: {"gem": "oval"}}


@contextmanager
def spoken(home: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A command as a process, ended with the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "node.cli", "federate", *words, "--json", "--home", str(home)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=START_S)


def heard(process: subprocess.Popen[str], word: str) -> str:
    """The next line on stderr with a word in it."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if word in line:
            return line
    raise AssertionError(f"it ended before {word!r} was said: {''.join(said)}")


@dataclass
class Taking:
    """A child in the rounds: its thread, how that ended, and what it brought in each round."""

    node: Node
    thread: threading.Thread
    here: threading.Event = field(default_factory=threading.Event)
    ended: list[str] = field(default_factory=list)
    brought: dict[int, Delta] = field(default_factory=dict)


@contextmanager
def taking_part(home: Path, parent: Node, url: str, path: str, stop: threading.Event) -> Iterator[Taking]:
    """A child with rows of its own, enrolled, in a thread of ours; its SuperNode is a process."""
    with closing(make_node(home, path, **SETTINGS)) as made:
        enrol_child(made, parent, url, path)
        child = Node(made.home, Settings(home=home), made.store, made.blobs, made.key)
        hand_over(parent, child)
        data = home / "rows.jsonl"
        write_rows([*rows(TABLES[path]), *rows(KNOWN)], data)
        with joining_rounds(child, path, data, stop) as taking:
            yield taking


@contextmanager
def joining_rounds(child: Node, path: str, data: Path | None, stop: threading.Event) -> Iterator[Taking]:
    """`node federate join` in a thread of ours, ended with the block."""

    def take_part() -> None:
        def ready(joined: Joined) -> None:
            assert joined.path == path
            taking.here.set()

        try:
            join(child, NodePath.parse(path), data, ready, stop)
        except LocalFailure as failure:
            taking.ended.append(failure.message)

    taking = Taking(child, threading.Thread(target=take_part))
    taking.thread.start()
    try:
        yield taking
    finally:
        stop.set()
        taking.thread.join(START_S)
        assert not taking.thread.is_alive()


def hand_over(parent: Node, child: Node) -> None:
    """What a pull brings, without its checks, which are tested elsewhere and take their time."""
    shutil.copytree(parent.home.blobs, child.home.blobs, dirs_exist_ok=True)
    top = str(parent.paths[0])
    with parent.store.read() as session:
        head = session.get(HeadRow, top)
    assert head is not None
    with child.store.transaction() as session:
        for link in stored_chain(parent.store, parent.blobs, head.release):
            session.add(release_row(link, own=False))
            session.flush()
        session.merge(HeadRow(path=top, release=head.release, changed=utc_now()))


def kill_supernode(home: Path) -> None:
    """As a power cut would."""
    for process in psutil.Process().children():
        if any(str(home) in word for word in process.cmdline()):
            process.kill()
            return
    raise AssertionError("there is no such SuperNode")


@pytest.mark.timeout(600)
def test_rounds_over_processes_with_a_liar_and_one_that_is_lost(
    toy_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """J5, J7, J9, J10: two honest children, one that lies, one whose SuperNode is killed after the first round."""
    children: dict[str, Taking] = {}

    def training(node: Node, path: NodePath, data: Path, epochs: int) -> Any:
        honest = trainer(node, path, data, epochs)

        def train(asked: Asked, start: Delta) -> Delta:
            delta = honest(asked, start)
            children[str(path)].brought[asked.task.round] = delta
            return {n: Factor(f.a, f.b * -1000) for n, f in delta.items()} if str(path) == LIAR else delta

        return train

    monkeypatch.setattr(joining, "trainer", training)
    parent = make_parent(tmp_path / "parent", toy_base)
    stop = threading.Event()
    with ExitStack() as stack:
        stack.enter_context(closing(parent))
        stack.callback(stop.set)
        url = stack.enter_context(node_process(parent.home.root))
        serving = stack.enter_context(spoken(parent.home.root, "serve", "--port", "0"))
        heard(serving, "rounds are served at 127.0.0.1:")
        for path in TABLES:
            home = tmp_path / path.replace("/", ".")
            children[path] = stack.enter_context(taking_part(home, parent, url, path, stop))
        for child in children.values():
            assert child.here.wait(START_S)
        words = ("--rounds", "2", "--least", "2", "--rank", "8", "--deadline", str(DEADLINE_S))
        run = stack.enter_context(spoken(parent.home.root, "run", "en", *words, "--set", "consolidate_epochs=0"))
        for _ in TABLES:
            heard(run, "round 1:")
        kill_supernode(tmp_path / LOST.replace("/", "."))
        out, _ = run.communicate(timeout=START_S + DEADLINE_S)
        found = json.loads(out)
        assert run.returncode == 0, found
    outcomes = {(one["round"], one["path"]): one["outcome"] for one in found["rulings"]}
    honest = ("en/shapes", "en/tools")
    accepted = {key for key, outcome in outcomes.items() if outcome == "accepted"}
    assert accepted == {(1, "en/shapes"), (1, "en/tools"), (1, LOST), (2, "en/shapes"), (2, "en/tools")}
    assert "no answer" in next(one["reason"] for one in found["rulings"] if one["round"] == 2 and not one["path"])
    assert "flower-supernode ended with -9" in children[LOST].ended[0]
    assert all(not children[path].ended for path in (*honest, LIAR))
    assert records(parent)[0]["version"] == found["version"] == 2
    release = head_of(parent, "en").release
    assert (release.version, len(release.contributions)) == (2, 5)
    digests = {one["path"]: one["digest"] for one in found["rulings"] if one["round"] == 2 and one["path"]}
    last = [children[path].brought[2] for path in sorted(honest, key=lambda path: digests[path])]
    expected = merge(None, last, parent.settings.rank_budget).delta
    assert release.adapter is not None
    made = read_adapter(parent.blobs.path(release.adapter.file.sha256), release.adapter.shape)
    for name, factor in expected.items():
        assert torch.equal(made[name].product(), factor.product())


def run_of(home: Path, path: str, *words: str) -> dict[str, Any]:
    """`node federate run` to its end."""
    usual = ("--deadline", str(DEADLINE_S), "--set", "consolidate_epochs=0")
    with spoken(home, "run", path, *words, *usual) as run:
        out, _ = run.communicate(timeout=START_S + DEADLINE_S)
    found: dict[str, Any] = json.loads(out)
    assert run.returncode == 0, found
    return found


@pytest.mark.timeout(600)
def test_an_inner_node_takes_part_above_while_it_serves_below(toy_base: Path, tmp_path: Path) -> None:
    """What two leaves learned in the rounds of `en` is what `en` brings to the rounds of `master`."""
    root, stop = make_parent(tmp_path / "root", toy_base, "master"), threading.Event()
    made = make_node(tmp_path / "inner", "en", **SETTINGS)
    with ExitStack() as stack:
        for node in (root, made):
            stack.enter_context(closing(node))
        stack.callback(stop.set)
        above = stack.enter_context(node_process(root.home.root))
        enrol_child(made, root, above, "en")
        inner = Node(made.home, Settings(home=made.home.root), made.store, made.blobs, made.key)
        hand_over(root, inner)
        top = head_of(root, "master")
        base = BaseManifest.from_bytes(inner.blobs.read(top.release.base, 1 << 20))
        put_toy_release(inner, "en", base, above=top.pin, anchors=rows(KNOWN))
        url = stack.enter_context(node_process(inner.home.root))
        for node in (root, inner):
            serving = stack.enter_context(spoken(node.home.root, "serve", "--port", "0"))
            heard(serving, "rounds are served at 127.0.0.1:")
        brings = stack.enter_context(joining_rounds(inner, "en", None, stop))
        leaves = [
            stack.enter_context(taking_part(tmp_path / path.replace("/", "."), inner, url, path, stop))
            for path in ("en/shapes", "en/tools")
        ]
        for one in (brings, *leaves):
            assert one.here.wait(START_S)
        assert run_of(inner.home.root, "en", "--rounds", "1", "--least", "2", "--rank", "8")["version"] == 2
        found = run_of(root.home.root, "master", "--rounds", "1", "--least", "1", "--rank", "16")
    assert [(one["path"], one["outcome"]) for one in found["rulings"]] == [("en", "accepted")]
    here, there = head_of(inner, "en").release, head_of(root, "master").release
    assert there.version == found["version"] == 2
    assert here.adapter is not None
    assert there.adapter is not None
    learned = read_adapter(inner.blobs.path(here.adapter.file.sha256), here.adapter.shape)
    arrived = read_adapter(root.blobs.path(there.adapter.file.sha256), there.adapter.shape)
    for name, factor in learned.items():
        assert torch.allclose(arrived[name].product(), factor.product(), atol=1e-6)
