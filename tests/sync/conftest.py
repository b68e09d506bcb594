from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from node.context import Node
from sync import sampled
from sync.delta import Delta
from tests.sync.promoting import EN, Done, at_work, updates_of
from tests.toy import rows
from tests.toy_tree import TAUGHT, decide, enrol, head_of, make_parent, reopened


@pytest.fixture(scope="session")
def ready(toy_base: Path, toy_adapters: dict[str, Delta], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a parent that has accepted an update of each child."""
    home = tmp_path_factory.mktemp("ready") / "home"
    with closing(make_parent(home, toy_base)) as node:
        check = at_work(node).check
        for path, table in TAUGHT.items():
            digest = enrol(node, path).offer(toy_adapters[path], rows(table, range(20)), gain=(0.0, 1.0))
            assert decide(node, digest, check) == "accepted"
    return home


@pytest.fixture
def parent(ready: Path, tmp_path: Path) -> Iterator[Node]:
    """A copy of that parent: the same keys, the same updates."""
    shutil.copytree(ready, tmp_path / "home")
    with closing(reopened(tmp_path / "home")) as node:
        yield node


@pytest.fixture
def bare(toy_base: Path, tmp_path: Path) -> Iterator[Node]:
    """A parent to which nobody has sent anything."""
    with closing(make_parent(tmp_path / "home", toy_base)) as node:
        yield node


@pytest.fixture(scope="module")
def done(ready: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """A promotion that went well."""
    home = tmp_path_factory.mktemp("done") / "home"
    shutil.copytree(ready, home)
    with closing(reopened(home)) as node:
        first = head_of(node, "en")
        yield Done(node, first, at_work(node).promote(EN, *updates_of(node)))


@pytest.fixture
def careful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are drawn from fewer tokens: a toy that spells by the byte says nonsense sooner than a grown model."""
    monkeypatch.setattr(sampled, "TOP_P", 0.6)
