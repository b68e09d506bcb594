"""A sample of what `python -m tests.kill_test daemon` and `python -m tests.faults` do in earnest.

Real processes on loopback: a child publishes, its parent checks, releases and lists, child and sibling follow. The
cycle must end as it does without faults, and a second run must add nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import tests.daemon_tree
from tests.daemon_cycle import Cycle
from tests.daemon_tree import CHILD, OFFER, PARENT, SIBLING, Tree
from tests.faults.shim import Fault, Kind, compiler
from tests.faults.torn import TORN, torn_up
from tests.killed_daemon import Usual, usual_cycle

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C compiler to build the shim with")


@pytest.fixture(scope="module")
def tree(forks: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    made = Tree.make(tmp_path_factory.mktemp("tree") / "tree")
    yield made
    made.stop_all()


@pytest.fixture(scope="module")
def usual(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Usual:
    return usual_cycle(tree, tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize(
    "faults",
    [
        # kill -9: of the parent twice, the second time while it starts, of the command, of the child that follows
        [(PARENT, "kill", 0.5), (PARENT, "kill", 0.1), (OFFER, "kill", 0.5), (CHILD, "kill", 0.3)],
        # the power of the parent fails, the child's disk has an error, the sibling's is cut off as well
        [(PARENT, "power", 0.5), (CHILD, "eio", 0.3), (SIBLING, "power", 0.4), (OFFER, "eio", 0.4)],
    ],
    ids=["kills", "disks"],
)
def test_a_cycle_ends_as_it_would_have(
    tree: Tree, usual: Usual, tmp_path: Path, faults: list[tuple[str, Kind, float]]
) -> None:
    cycle = Cycle(tree)
    for number, (name, kind, share) in enumerate(faults):
        fault = Fault(kind, max(1, round(usual.calls[name] * share)), tmp_path / str(number))
        cycle.faults.setdefault(name, []).append(fault)
    dealt = [fault for given in cycle.faults.values() for fault in given]
    cycle.begin()
    cycle.tend(cycle.is_over)
    assert [fault.counts.fired for fault in dealt] == [1] * len(faults)
    cycle.judge(usual.left)
    assert cycle.found == []
    assert cycle.recoveries_s  # how long they take is what the script measures: this machine may be busy


@pytest.mark.parametrize("what", TORN)
def test_a_torn_transaction_is_found(tree: Tree, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker can fail: a daemon that commits half of a decision and is killed before the rest is reported."""
    monkeypatch.setattr(tests.daemon_tree, "up", partial(torn_up, what))
    cycle = Cycle(tree)
    cycle.begin()
    cycle.tend(lambda: bool(cycle.found))
    tree.stop_all()
    assert cycle.kills
    assert TORN[what].reported in cycle.found[0]
