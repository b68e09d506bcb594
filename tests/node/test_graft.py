from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI

from node.api.app import create_app
from node.context import Node
from node.models import composer
from node.offer import Outgoing
from node.outbox import opened, updates_out
from node.outdated import outdated
from node.publish import PublishResult, publish
from node.pull import pull
from node.rebasing import rebase_all
from registry.documents import BaseManifest, Distillation
from registry.errors import BadData, LocalFailure
from registry.keys import PrivateKey
from registry.paths import NodePath
from registry.rows import write_rows
from registry.store import select
from registry.tables import UpdateRow
from registry.taught import read_taught
from sync.delta import Delta
from sync.model import load_model
from sync.score import evaluate_rows
from tests.toy import KNOWN, SHAPES, TOOLS, held_out, learn, rows, share
from tests.toy_tree import SETTINGS, decide, follow_up, head_of, make_parent, put_toy_release
from tests.world import enrol_child, make_node, put_base, put_run, utc_now

PATH = "en/shapes"
PLACE = NodePath.parse(PATH)


@pytest.fixture(scope="session")
def graft_delta(toy_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Delta:
    """What a graft learned by itself."""
    return learn(load_model(toy_student, [], "fp32"), SHAPES, PATH, tmp_path_factory.mktemp("fit"))


def make_graft(node: Node, student: Path, delta: Delta) -> None:
    """A model on a base of the node's own, trained on its rows."""
    base = put_base(node, {file.name: file.read_bytes() for file in student.iterdir()})
    put_toy_release(node, PATH, base, delta=delta)
    adapter = head_of(node, PATH).release.adapter
    assert adapter is not None
    folder = node.home.runs / put_run(node, PATH, node.blobs.read(adapter.file.sha256, 1 << 24))[:12]
    folder.mkdir()
    write_rows(rows(SHAPES, range(30)), folder / "train.jsonl")
    write_rows(held_out(SHAPES), folder / "test.jsonl")


@pytest.fixture
def family(
    tmp_path: Path, serve: Callable[[FastAPI], str], toy_base: Path, toy_student: Path, graft_delta: Delta
) -> Iterator[tuple[Node, Node]]:
    """A parent on one base, and an enrolled child on a smaller one that has pulled."""
    parent = make_parent(tmp_path / "parent", toy_base)
    child = make_node(tmp_path / "child", PATH, **SETTINGS)
    enrol_child(child, parent, serve(create_app(parent)), PATH)
    pull(child, None, utc_now())
    make_graft(child, toy_student, graft_delta)
    yield parent, child
    child.close()
    parent.close()


def send(child: Node, count: int, confirm: Callable[[Outgoing], bool] = lambda outgoing: True) -> PublishResult:
    return publish(child, PLACE, None, count, confirm, now=utc_now())


def test_a_graft_offers_answers_instead_of_its_adapter(family: tuple[Node, Node]) -> None:
    """U9, U14: what leaves is shown first, and is the model's own answers with its choices."""
    parent, child = family
    shown: list[Outgoing] = []
    done = send(child, 60, lambda outgoing: bool(shown.append(outgoing)) or True)
    [row] = [row for row in updates_out(child, ["received", "verified"]) if row.digest == done.digest]
    said = opened(child, row)
    assert isinstance(said, Distillation)
    assert (said.answer_rows, said.top) == (60, 8)  # both bases have one tokenizer
    assert said.teacher == head_of(child, PATH).digest
    assert said.release == head_of(parent, "en").pin
    assert said.base != head_of(parent, "en").release.base
    assert (shown[0].transfer_rows, shown[0].files) == (60, said.files)
    taught = read_taught(parent.blobs.open_verified(said.answers.sha256), 1 << 24, 60, 8)
    right = {row.input: row.output for row in rows(SHAPES, range(30))}
    assert share([right[one.row.input] == one.row.output for one in taught]) > 0.8
    adapter = head_of(child, PATH).release.adapter
    assert adapter is not None
    assert not parent.blobs.has(adapter.file.sha256)


def test_the_parent_takes_what_a_graft_taught(family: tuple[Node, Node]) -> None:
    parent, child = family
    assert decide(parent, send(child, 80).digest) == "accepted"


def test_without_rows_a_graft_has_nothing_to_offer(family: tuple[Node, Node]) -> None:
    """U14: nothing is signed."""
    _, child = family
    with pytest.raises(LocalFailure, match="weights mean nothing there"):
        send(child, 0)
    with pytest.raises(LocalFailure, match="not confirmed"):
        send(child, 60, lambda outgoing: False)
    with child.store.read() as session:
        assert session.scalars(select(UpdateRow)).all() == []


def test_a_parent_with_another_tokenizer_gets_no_log_probabilities(family: tuple[Node, Node]) -> None:
    _, child = family
    above = head_of(child, "en")
    manifest = BaseManifest.from_bytes(child.blobs.read(above.release.base, 1 << 20))
    other = tuple(replace_digest(file) if file.name == "tokenizer.json" else file for file in manifest.files)
    base = manifest.model_copy(update={"files": other})
    child.blobs.put_bytes(base.to_bytes())
    put_toy_release(child, "en", base, version=2, anchors=rows(KNOWN), signer=PrivateKey.generate())
    settings = child.settings.model_copy(update={"distillation_top": 4})
    from node.answer_set import make_answers
    from registry.paths import Ref

    for node, pin, top in ((child, head_of(child, "en").pin, 0), (replace(child, settings=settings), above.pin, 4)):
        made = make_answers(node, Ref(PLACE), pin, rows(SHAPES, range(3)))
        assert (made.top, made.tokenizer is None) == (top, top == 0)
    with pytest.raises(BadData, match="answer"):
        make_answers(child, Ref(PLACE), above.pin, [])


def replace_digest(file: object) -> object:
    return file.model_copy(update={"sha256": "0" * 64})  # type: ignore[attr-defined]


@pytest.fixture
def follower(
    tmp_path: Path, toy_base: Path, toy_student: Path, graft_delta: Delta
) -> Iterator[tuple[Node, PrivateKey]]:
    """A graft with its parent's first release beside it."""
    node, parent = make_node(tmp_path / "home", PATH, **SETTINGS), PrivateKey.generate()
    with closing(node):
        base = put_base(node, {file.name: file.read_bytes() for file in toy_base.iterdir()})
        put_toy_release(node, "en", base, anchors=rows(KNOWN), signer=parent)
        make_graft(node, toy_student, graft_delta)
        yield node, parent


def knows(node: Node, table: dict[str, str]) -> float:
    loaded = composer(node).load(head_of(node, PATH).digest)
    return share(evaluate_rows(loaded, held_out(table), PATH)[1])


def test_a_graft_learns_of_its_parents_answers(
    follower: tuple[Node, PrivateKey], toy_adapters: dict[str, Delta]
) -> None:
    """G11: no weight of the parent is taken, and the graft stays the top of its own sum."""
    node, parent = follower
    first = head_of(node, PATH)
    rebase_all(node, utc_now())
    assert outdated(node) == []  # decided on, whatever it was
    follow_up(node, parent, toy_adapters["en/tools"])
    thorough = replace(node, settings=node.settings.model_copy(update={"rebase_epochs": 12}))
    [done] = rebase_all(thorough, utc_now())
    assert (done.above, done.way) == (2, "distil")
    assert [option["way"] for option in done.options] == ["stay", "distil"]
    new = head_of(node, PATH).release
    assert (new.above, new.base) == (None, first.release.base)
    assert new.anchors == head_of(node, "en").release.anchors
    assert min(knows(node, SHAPES), knows(node, TOOLS), knows(node, KNOWN)) >= 0.85
    assert outdated(node) == []
    assert rebase_all(node, utc_now()) == []
    assert node.store.check_integrity() == []


def test_a_graft_that_loses_its_own_knowledge_stays(
    follower: tuple[Node, PrivateKey], toy_adapters: dict[str, Delta]
) -> None:
    """G8, G11: staying is always legal, and without passes there is nothing else."""
    node, parent = follower
    lazy = replace(node, settings=node.settings.model_copy(update={"rebase_epochs": 0}))
    follow_up(node, parent, toy_adapters["en/tools"])
    before = head_of(node, PATH)
    [done] = rebase_all(lazy, utc_now())
    assert done.way == "stay"
    assert head_of(node, PATH) == before
    assert outdated(node) == []
