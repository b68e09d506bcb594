from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from node.context import Node
from node.leftovers import sweep
from node.run_lock import run_lock
from registry.paths import NodePath
from registry.tables import RunRow, RunState, UpdateRow
from tests.world import make_node, utc_now

NOW = utc_now()
OLD = ("partial/" + "a" * 64, "partial/tmp1/rows.jsonl", "bases/.new-x/new/config.json", "runs/repeat-x/fit/state",
       "runs/release-x/fit/state")  # fmt: skip


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with closing(make_node(tmp_path / "home", "en")) as node:
        yield node


def put(node: Node, name: str, days: float) -> Path:
    """A file of the home, it and its folders last touched so long ago."""
    file = node.home.root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"bytes")
    then = (NOW - timedelta(days=days)).timestamp()
    for place in (file, *(folder for folder in file.parents if folder.is_relative_to(node.home.root))):
        os.utime(place, (then, then))
    return file


def put_run(node: Node, run: str, state: RunState) -> Path:
    with node.store.transaction() as session:
        session.add(RunRow(id=run, kind="finetune", path="en/x", state=state, created=NOW, changed=NOW))
    return put(node, f"runs/{run}/fit/state", 0)


@pytest.mark.parametrize("name", OLD)
def test_what_was_left_goes_once_nothing_can_need_it(node: Node, name: str) -> None:
    file = put(node, name, days=1.9)
    assert sweep(node, NOW) == 0
    assert file.exists()
    file = put(node, name, days=2.1)
    assert sweep(node, NOW) == 1
    assert not file.exists()
    assert sweep(node, NOW) == 0


def test_what_something_is_still_written_to_stays(node: Node) -> None:
    old = put(node, "runs/repeat-x/fit/state", days=9)
    put(node, "runs/repeat-x/metrics.jsonl", days=0)
    os.utime(old.parent.parent, (0, 0))
    assert sweep(node, NOW) == 0
    assert old.exists()


@pytest.mark.parametrize("name", ["blobs/aa/" + "a" * 64, "bases/" + "b" * 64 + "/config.json", "runs/r1/train.jsonl",
                                  "runs/rebase-x/fit/state", "validation/en.jsonl", "keys/node.pem"])  # fmt: skip
def test_what_is_in_use_is_never_touched(node: Node, name: str) -> None:
    file = put(node, name, days=99)
    assert sweep(node, NOW) == 0
    assert file.exists()


def test_a_candidate_that_is_being_made_stays(node: Node) -> None:
    file = put(node, "runs/release-x/fit/state", days=9)
    with node.store.transaction() as session:
        session.add(
            UpdateRow(digest="1" * 64, direction="in", issuer="2" * 64, path="en/x", sequence=1, state="aggregated",
                      envelope=b"", received=NOW, changed=NOW)
        )  # fmt: skip
    assert sweep(node, NOW) == 0
    assert file.exists()


def test_checkpoints_go_when_their_run_is_done_and_nobody_is_at_work(node: Node) -> None:
    done, running, failed = (put_run(node, f"run-{state}", state) for state in ("done", "running", "failed"))
    with run_lock(node.home, NodePath.parse("en/x")):
        assert sweep(node, NOW) == 0
    assert sweep(node, NOW) == 1
    assert [file.exists() for file in (done, running, failed)] == [False, True, True]
    assert done.parent.parent.is_dir()
