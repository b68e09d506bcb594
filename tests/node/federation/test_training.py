"""What a child brings to a round: its rows' fine-tune, or its own release."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from node.context import Node
from node.federation.training import own_release, shapes_at, trainer
from registry.documents import AdapterShape, ReleasePin, seal_document
from registry.errors import BadData, LocalFailure
from registry.keys import PrivateKey
from registry.paths import NodePath
from registry.rounds import RoundTask
from registry.rows import write_rows
from sync.delta import Delta, total_norm
from sync.federation.arrays import digest_of, fresh, to_delta, to_record
from sync.federation.contributions import Asked
from sync.federation.inspection import changed
from sync.train import ALL_LINEAR
from tests.toy import SHAPES, rows
from tests.toy_tree import head_of, make_child
from tests.world import utc_now

PATH = NodePath.parse("en/shapes")


@pytest.fixture
def child(toy_base: Path, toy_adapters: dict[str, Delta], tmp_path: Path) -> Iterator[tuple[Node, PrivateKey]]:
    node, parent = make_child(tmp_path / "home", toy_base, toy_adapters, version=1)
    with closing(node):
        yield node, parent


def asked(child: tuple[Node, PrivateKey], rank: int = 8, **changes: Any) -> Asked:
    node, parent = child
    link, now = head_of(node, "en"), utc_now()
    task = RoundTask(
        issuer=parent.public.id,
        created=now,
        expires=now + timedelta(minutes=5),
        run="1" * 64,
        round=1,
        rounds=1,
        release=link.pin,
        base=link.release.base,
        start="2" * 64,
        shape=AdapterShape(rank=rank, alpha=float(rank), targets=tuple(sorted(ALL_LINEAR)), dtype="F32"),
        frozen="",
        seed=1,
    )
    return Asked(task.model_copy(update=changes), seal_document(task, parent))


def test_rows_are_trained_from_the_arrays_that_were_sent(child: tuple[Node, PrivateKey], tmp_path: Path) -> None:
    write_rows(rows(SHAPES, range(20)), tmp_path / "rows.jsonl")
    train, task = trainer(child[0], PATH, tmp_path / "rows.jsonl", 1), asked(child)
    shapes = shapes_at(child[0])(task)
    start = fresh(shapes, 1)
    brought = train(task, start)
    assert digest_of(to_delta(to_record(brought), shapes)) == digest_of(brought)
    assert total_norm(changed(brought, start)) > 0
    assert digest_of(train(task, start)) == digest_of(brought)
    assert not list(child[0].home.runs.glob("round-*"))
    with pytest.raises(BadData, match="does not lie"):
        own_release(child[0], NodePath.parse("de"))(task, start)


@pytest.mark.parametrize("rank", [8, 12, 4])
def test_the_own_release_is_brought_at_the_rank_of_the_task(
    rank: int, child: tuple[Node, PrivateKey], toy_adapters: dict[str, Delta]
) -> None:
    task = asked(child, rank)
    shapes = shapes_at(child[0])(task)
    brought = own_release(child[0], PATH)(task, fresh(shapes, 1))
    assert to_delta(to_record(brought), shapes).keys() == brought.keys()
    mine = toy_adapters["en/shapes"]
    far = max(float((brought[n].product() - mine[n].product()).norm() / mine[n].product().norm()) for n in mine)
    assert far < 1e-5 if rank >= 8 else 0 < far < 1
    assert all(torch.isfinite(factor.a).all() for factor in brought.values())


def test_what_cannot_be_brought_is_said(child: tuple[Node, PrivateKey]) -> None:
    bring, task = own_release(child[0], PATH), asked(child)
    start = fresh(shapes_at(child[0])(task), 1)
    with pytest.raises(BadData, match="needs rows to train on"):
        bring(replace(task, task=task.task.model_copy(update={"frozen": "a"})), start)
    other = ReleasePin(path="en", version=2, digest="3" * 64)
    with pytest.raises(LocalFailure, match="no release of its own over en@v2"):
        bring(replace(task, task=task.task.model_copy(update={"release": other})), start)
    with pytest.raises(LocalFailure, match="is not on this node"):
        shapes_at(child[0])(replace(task, task=task.task.model_copy(update={"release": other})))
    with pytest.raises(BadData, match="another base"):
        shapes_at(child[0])(replace(task, task=task.task.model_copy(update={"base": "4" * 64})))
