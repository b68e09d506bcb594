from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from node.context import Node
from registry.rows import Row
from sync.delta import Delta
from sync.federation.client import LocalPrivacy, Member, client_app
from sync.federation.contributions import Asked
from sync.federation.plan import RoundsPlan
from sync.federation.rounds import Prepared, arrays_of, prepare
from sync.promote import Promoter
from sync.tokens import Example
from sync.train import TrainPlan, fit
from tests.sync.promoting import EN, LAX, NOW, at_work
from tests.toy import KNOWN, SHAPES, TOOLS, rows
from tests.toy_tree import Child, enrol

TARGETS = ("q_proj", "v_proj", "up_proj", "down_proj")
QUICK: dict[str, Any] = {"rounds": 1, "rank": 8, "targets": TARGETS, "least": 2, "deadline_s": 5.0, "gather_s": 1.0}
TABLES = {"en/shapes": SHAPES, "en/tools": TOOLS, "en/more": {"ivy": "saw", "gem": "oval"}}
TRAINED: dict[tuple[str, ...], Delta] = {}  # what they learned before, by path and start


@pytest.fixture
def children(bare: Node) -> dict[str, Child]:
    """The children of the bare parent, enrolled."""
    return {path: enrol(bare, path) for path in TABLES}


@pytest.fixture
def ready_run(bare: Node) -> Callable[..., Prepared]:
    """A run over the parent's release that can begin: `ready_run(rounds=2)`."""

    def make(known: tuple[Row, ...] = (), **plan: Any) -> Prepared:
        return prepare(
            at_work(bare, known=known, **{**LAX, "epochs": 0}), EN, RoundsPlan(**{**QUICK, **plan}), run="5" * 64
        )

    return make


def member(child: Child, promoter: Promoter, work: Path) -> Member:
    """A child that trains the toy model on its table."""
    head = promoter.composer

    def train(asked: Asked, start: Delta) -> Delta:
        key = child.path, asked.task.start, asked.task.frozen
        if key not in TRAINED:
            TRAINED[key] = trained(asked, start)
        return TRAINED[key]

    def trained(asked: Asked, start: Delta) -> Delta:
        plan = TrainPlan(
            rank=asked.task.shape.rank,
            alpha=float(asked.task.shape.rank),
            targets=asked.task.shape.targets,
            epochs=1,
            batch_tokens=512,
            learning_rate=1e-2,
        )
        examples = [Example(row, child.path) for row in [*rows(TABLES[child.path]), *rows(KNOWN)]]
        loaded = head.load(asked.task.release.digest)
        folder = work / f"{child.path.replace('/', '.')}-{asked.task.round}"
        return fit(loaded, examples, [], plan, folder, start=start, frozen=asked.task.frozen).delta

    def shapes(asked: Asked) -> dict[str, tuple[int, int]]:
        return arrays_of(head, head.chain(asked.task.release.digest)[-1].release, asked.task.shape)

    return Member(child.key, child.path, child.parent.key.public, shapes, train, now=lambda: NOW)


def app(child: Child, promoter: Promoter, work: Path, private: LocalPrivacy | None = None) -> ClientApp:
    mine = member(child, promoter, work)
    return client_app(lambda context: mine, private)


@pytest.fixture(autouse=True)
def task_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Flower's processes know of themselves, in ours."""
    for name in ("run_id", "node_id", "task_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1, raising=False)
