from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from node.context import Node
from registry.documents import Update
from sync import lessons
from sync.delta import Delta, scaled
from sync.lessons import NOTE, Taught, teach
from sync.promote import Promoter
from tests.sync.promoting import EN, at_work, updates_of
from tests.toy import KNOWN, SHAPES, TOOLS, rows, share
from tests.toy_tree import decide, enrol, make_parent

pytestmark = pytest.mark.usefixtures("careful")


@pytest.fixture
def silent(toy_base: Path, asking: Delta, toy_adapters: dict[str, Delta], tmp_path: Path) -> Node:
    """A parent that accepted two updates without a row: the child of shapes has learned its prompts, the other not."""
    node = make_parent(tmp_path / "home", toy_base)
    for path, delta in {"en/shapes": asking, "en/tools": toy_adapters["en/tools"]}.items():
        assert decide(node, enrol(node, path).offer(delta), at_work(node).check) == "accepted"
    return node


def by_path(updates: Sequence[Update], found: Sequence[Taught]) -> dict[str, Taught]:
    assert [one.path for one in found] == [update.path for update in updates]
    return {one.path: one for one in found}


def lessons_of(parent: Promoter, node: Node, work: Path) -> dict[str, Taught]:
    updates = updates_of(node)[1]
    return by_path(updates, teach(parent, updates, work))


def test_what_did_not_travel_is_sampled_from_the_child(silent: Node, tmp_path: Path) -> None:
    """G10: no row of the child is here, and what it learned is taught all the same."""
    with closing(silent):
        found = lessons_of(at_work(silent, prompts=50), silent, tmp_path / "work")["en/shapes"]
    assert (len(found.rows["travelled"]), len(found.rows["own"])) == (0, 0)
    said = len(found.rows["sampled"]) + len(found.held)
    assert 25 < said <= 50
    assert len(found.held) == round(said / 10)
    assert all(found.held_right)
    assert sum(row.input.split()[0] in SHAPES for row in found.lesson.rows) > 15
    assert found.may_travel == found.rows["sampled"]


def test_own_prompts_go_to_the_child_that_is_surest(silent: Node, tmp_path: Path) -> None:
    """G10."""
    asked = [replace(row, output="") for row in rows({**SHAPES, **TOOLS}, range(30, 40))]
    working = replace(at_work(silent, prompts=60), own_prompts=lambda place: asked if place == EN else [])
    with closing(silent):
        found = lessons_of(working, silent, tmp_path / "work")
    for path, table in {"en/shapes": SHAPES, "en/tools": TOOLS}.items():
        own = found[path].rows["own"]
        right = [row.input.split()[0] in table for row in own]
        assert len(own) >= 20
        assert share(right) > 0.6
        assert not {row.input for row in own} & {row.input for row in found[path].may_travel}


def test_rows_that_travelled_come_first_and_may_be_enough(parent: Node, tmp_path: Path) -> None:
    found = lessons_of(at_work(parent, prompts=60), parent, tmp_path / "work")
    assert {len(one.rows["travelled"]) for one in found.values()} == {54}
    assert {len(one.held) for one in found.values()} == {6}
    assert not any(one.rows["own"] or one.rows["sampled"] for one in found.values())
    assert all(share(one.held_right) == 1.0 for one in found.values())


def test_what_two_children_answer_differently_is_left_out(
    bare: Node, toy_adapters: dict[str, Delta], tmp_path: Path
) -> None:
    """Neither can be right for both; what they agree on is taught."""
    lies = [replace(row, output="oval") for row in rows(SHAPES, range(3))]
    for path, table in {"en/shapes": rows(SHAPES), "en/tools": [*rows(TOOLS), *lies]}.items():
        digest = enrol(bare, path).offer(toy_adapters[path], table)
        assert decide(bare, digest, lambda update, adapter, transfer: []) == "accepted"
    found = lessons_of(at_work(bare), bare, tmp_path / "work")
    asked = {path: {row.input for row in (*one.lesson.rows, *one.held)} for path, one in found.items()}
    disputed = {row.input for row in lies if row.output != SHAPES[row.input.split()[0]]}
    assert disputed
    assert not disputed & (asked["en/shapes"] | asked["en/tools"])
    assert asked["en/shapes"] == {row.input for row in rows(SHAPES)} - disputed


def test_lessons_are_made_once(silent: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(silent):
        working = at_work(silent, prompts=20)
        first = lessons_of(working, silent, tmp_path / "work")
        monkeypatch.setattr(lessons, "sampled", lambda *_, **__: pytest.fail("sampled again"))
        assert lessons_of(working, silent, tmp_path / "work") == first


def test_a_kill_before_the_note_makes_the_same_lessons_again(silent: Node, tmp_path: Path) -> None:
    with closing(silent):
        working = at_work(silent, prompts=20)
        first = lessons_of(working, silent, tmp_path / "work")
        (tmp_path / "work" / NOTE).unlink()
        (tmp_path / "work" / "lesson-0-held.jsonl").write_text("")
        assert lessons_of(working, silent, tmp_path / "work") == first
        assert all(json.loads((tmp_path / "work" / NOTE).read_text())[0]["held_right"])


def test_a_teacher_that_answers_nonsense_teaches_nothing(bare: Node, asking: Delta, tmp_path: Path) -> None:
    digest = enrol(bare, "en/shapes").offer(scaled(asking, 1e4))
    assert decide(bare, digest, lambda update, adapter, transfer: []) == "accepted"
    found = lessons_of(at_work(bare, prompts=20), bare, tmp_path / "work")["en/shapes"]
    assert len(found.lesson.rows) < 20
    assert not {row.input for row in found.lesson.rows} & {row.input for row in rows({**SHAPES, **KNOWN})}


def test_no_updates_teach_nothing(bare: Node, tmp_path: Path) -> None:
    assert teach(at_work(bare), [], tmp_path / "work") == []
