from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI

from node.api.app import create_app
from node.context import Node
from node.models import composer
from node.pull import pull
from node.rebasing import DECISION, rebase_all, rebase_round
from node.run_lock import run_lock
from registry.cards import parse_card
from registry.documents import BaseManifest
from registry.errors import LocalFailure
from registry.keys import PrivateKey
from registry.paths import NodePath
from registry.rows import write_rows
from registry.store import select
from registry.tables import DecisionRow, RunRow
from sync.chain import stored_chain
from sync.delta import Delta
from sync.score import evaluate_rows
from sync.train import StepReport
from tests.toy import KNOWN, SHAPES, TOOLS, held_out, rows, share
from tests.toy_tree import SETTINGS, follow_up, head_of, make_child, make_parent, put_toy_release, releases_of
from tests.world import enrol_child, make_node, utc_now

PATH = "en/shapes"


@pytest.fixture
def child(toy_base: Path, toy_adapters: dict[str, Delta], tmp_path: Path) -> Iterator[Node]:
    """A child with the rows of its own run, and the parent's new release."""
    node, _ = make_child(tmp_path / "home", toy_base, toy_adapters)
    with closing(node):
        put_rows(node)
        yield node


def thorough(node: Node) -> Node:
    """The same node with more and smaller steps: few rows make few, and at the usual rate a few leap away."""
    slower = {"rebase_epochs": 20, "consolidate_learning_rate": 8e-3}
    return replace(node, settings=node.settings.model_copy(update=slower))


def put_rows(node: Node, path: str = PATH) -> None:
    """What a fine-tune leaves in its folder."""
    folder = node.home.runs / "run1"
    folder.mkdir()
    write_rows(rows(SHAPES, range(20)), folder / "train.jsonl")
    write_rows(held_out(SHAPES), folder / "test.jsonl")
    now = utc_now()
    with node.store.transaction() as session:
        session.add(RunRow(id="run1", kind="finetune", path=path, state="done", created=now, changed=now))


def decisions(node: Node) -> list[dict[str, object]]:
    with node.store.read() as session:
        found = session.scalars(select(DecisionRow).where(DecisionRow.kind == DECISION)).all()
        return [{"subject": row.subject, **json.loads(row.body)} for row in found]


def knows(node: Node, table: dict[str, str]) -> float:
    loaded = composer(node).load(head_of(node, PATH).digest)
    return share(evaluate_rows(loaded, held_out(table), PATH)[1])


def test_a_child_takes_what_its_parent_learned_and_keeps_its_own(child: Node) -> None:
    old, above, steps = head_of(child, PATH), head_of(child, "en"), list[StepReport]()
    [done] = rebase_all(thorough(child), utc_now(), steps.append)
    new = head_of(child, PATH)
    assert (done.path, done.above, done.way, done.version) == (PATH, 2, "adopt-and-consolidate", 5), done.options
    assert (new.release.version, new.release.previous, new.release.above) == (5, old.digest, above.pin)
    assert (new.release.base, new.release.anchors) == (above.release.base, above.release.anchors)
    assert new.signer == child.key.public
    assert min(knows(child, SHAPES), knows(child, TOOLS), knows(child, KNOWN)) >= 0.95
    own, anchors = new.release.evaluations
    assert (own.dataset, own.rows, anchors.dataset) == ("own", len(held_out(SHAPES)), "anchors")
    assert anchors.rows > 10
    assert own.metrics["exact_match"] >= 0.95
    above_alone = evaluate_rows(composer(child).load(above.digest), held_out(SHAPES), PATH)[1]
    assert own.metrics["exact_match_before"] == share(above_alone) < 0.5  # so that publishing it claims its gain
    assert "exact_match_before" not in anchors.metrics  # what the parent knows is no gain of the child
    card = parse_card(child.blobs.read(new.release.card.sha256, 1 << 20).decode())
    assert (card.licence, card.languages) == ("MIT", ("en",))
    assert steps[-1].step == steps[-1].total_steps
    assert [folder.name for folder in child.home.runs.iterdir() if folder.is_dir()] == ["run1"]
    assert child.store.check_integrity() == []
    [noted] = decisions(child)
    assert (noted["subject"], noted["above"], noted["way"]) == (old.digest, above.digest, done.way)
    assert [option["way"] for option in done.options] == ["stay", "adopt", "adopt-and-consolidate", "preserve"]
    assert noted["options"] == done.options


def test_the_same_release_is_not_tried_twice(child: Node) -> None:
    assert len(rebase_all(child, utc_now())) == 1
    before = head_of(child, PATH)
    assert rebase_all(child, utc_now()) == []
    assert head_of(child, PATH) == before
    assert len(decisions(child)) == 1


def test_staying_is_a_decision_too(toy_base: Path, toy_adapters: dict[str, Delta], tmp_path: Path) -> None:
    """G8: without rows to measure on, nothing speaks for a change."""
    node, parent = make_child(tmp_path / "home", toy_base, toy_adapters, version=1)
    with closing(node):
        old = head_of(node, "en")
        base = BaseManifest.from_bytes(node.blobs.read(old.release.base, 1 << 20))
        put_toy_release(node, "en", base, version=2, delta=toy_adapters["en/tools"], previous=old.digest, signer=parent)
        before = head_of(node, PATH)
        [done] = rebase_all(node, utc_now())
        assert (done.way, done.version) == ("stay", 4)
        assert head_of(node, PATH) == before
        assert [noted["way"] for noted in decisions(node)] == ["stay"]
        assert rebase_all(node, utc_now()) == []
        follow_up(node, parent, toy_adapters["en/tools"], version=3)
        assert [done.above for done in rebase_all(node, utc_now())] == [3]


@pytest.mark.parametrize("way", ["nothing new", "our own", "an older one"])
def test_what_is_no_successor_changes_nothing(
    way: str, toy_base: Path, toy_adapters: dict[str, Delta], tmp_path: Path
) -> None:
    node, _ = make_child(tmp_path / "home", toy_base, toy_adapters, version=1)
    with closing(node):
        base = BaseManifest.from_bytes(node.blobs.read(head_of(node, "en").release.base, 1 << 20))
        if way == "our own":
            put_toy_release(node, "en", base, version=2, delta=toy_adapters["en/tools"])
        elif way == "an older one":
            put_toy_release(node, "en", base, version=1, signer=PrivateKey.generate())
        assert rebase_all(node, utc_now()) == []
        assert decisions(node) == []


def test_a_path_at_work_is_left_alone(child: Node) -> None:
    before = head_of(child, PATH)
    with run_lock(child.home, NodePath.parse(PATH)), pytest.raises(LocalFailure, match="is being fine-tuned"):
        rebase_all(child, utc_now())
    assert (head_of(child, PATH), decisions(child)) == (before, [])


class Stopped(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


def test_a_rebase_that_was_ended_is_done_by_the_next_call(child: Node) -> None:
    before = head_of(child, PATH)

    def stop(report: StepReport) -> None:
        if report.step == 3:
            raise Stopped

    with pytest.raises(Stopped):
        rebase_all(child, utc_now(), stop)
    assert (head_of(child, PATH), decisions(child)) == (before, [])
    [done] = rebase_all(child, utc_now())
    assert head_of(child, PATH).release.version == done.version
    assert releases_of(child, PATH) == list(range(4, done.version + 1))
    assert [noted["way"] for noted in decisions(child)] == [done.way]


def test_a_round_follows_the_parent_through_the_network(
    serve: Callable[[FastAPI], str], toy_base: Path, toy_adapters: dict[str, Delta], tmp_path: Path
) -> None:
    with (
        closing(make_parent(tmp_path / "parent", toy_base)) as parent,
        closing(make_node(tmp_path / "child", PATH, **SETTINGS)) as child,
    ):
        enrol_child(child, parent, serve(create_app(parent)), PATH)
        pull(child, None, utc_now())
        rebase_round(child, utc_now())
        first = head_of(child, "en")
        assert first == head_of(parent, "en")
        base = BaseManifest.from_bytes(child.blobs.read(first.release.base, 1 << 20))
        put_toy_release(child, PATH, base, above=first.pin, delta=toy_adapters[PATH])
        put_rows(child)
        pull(child, None, utc_now())
        rebase_round(child, utc_now())
        assert (releases_of(child, PATH), decisions(child)) == ([1], [])
        put_toy_release(
            parent, "en", base, version=2, delta=toy_adapters["en/tools"], anchors=[*rows(KNOWN), *rows(TOOLS)],
            previous=first.digest,
        )  # fmt: skip
        pull(child, None, utc_now())
        rebase_round(replace(child, settings=child.settings.model_copy(update={"rebase_epochs": 0})), utc_now())
        assert head_of(child, "en") == head_of(parent, "en")
        [noted] = decisions(child)
        chain = stored_chain(child.store, child.blobs, head_of(child, PATH).digest)
        assert [link.release.version for link in chain] == ([1, 1] if noted["way"] == "stay" else [2, 2])


def test_a_path_at_work_is_logged_and_tried_again(child: Node, caplog: pytest.LogCaptureFixture) -> None:
    with run_lock(child.home, NodePath.parse(PATH)):
        assert rebase_round(child, utc_now()) == []
    assert "rebasing: en/shapes is being fine-tuned" in caplog.text
