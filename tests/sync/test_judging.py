from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.context import Node
from registry.errors import BadData
from registry.keys import PrivateKey
from registry.rows import Row
from sync.delta import Delta
from sync.enrolled import Identity
from sync.judging import AnchorSet, anchor_sets, canaries, check_name, gain_checks, loss_checks, timed_right
from sync.lessons import Taught
from sync.model import add
from sync.promote import Promoter
from sync.score import evaluate_rows
from tests.sync.promoting import EN, at_work
from tests.toy import KNOWN, SHAPES, TOOLS, held_out
from tests.toy_tree import head_of

SLUG = re.compile(r"[a-z0-9][a-z0-9_.-]{0,59}")
ROWS = {
    "master": [Row("m 1", "red")],
    "en": held_out(KNOWN),
    "en/shapes": held_out(SHAPES),
    "en/tools": [],
    "en/other": [Row("o 1", "red")],
}


def knowing(node: Node, **changes: list[Row]) -> Promoter:
    return replace(at_work(node), known_rows=lambda place: (ROWS | changes).get(str(place), []))


def test_the_sets_are_those_of_the_place_of_all_above_it_and_of_its_roles(bare: Node) -> None:
    """G3: rows below are asked as the place that they are of, all others as the place itself."""
    found = anchor_sets(knowing(bare), "en", ["en", "en/shapes", "en/tools"])
    assert found == [
        AnchorSet("gate.known.en", "en", ROWS["en"]),
        AnchorSet("gate.known.master", "en", ROWS["master"]),
        AnchorSet("gate.known.en.shapes", "en/shapes", ROWS["en/shapes"]),
    ]
    assert anchor_sets(replace(at_work(bare), known_rows=lambda place: []), "en", ["en/shapes"]) == []


def test_a_set_that_contradicts_itself_judges_nothing(bare: Node) -> None:
    twice = [Row("fox 1", "red"), Row("owl 1", "sky"), Row("fox 1", "sky")]
    with pytest.raises(BadData, match="what is known of en contradicts itself: 1 requests have two answers") as caught:
        anchor_sets(knowing(bare, en=twice), "en", [])
    assert "keep one answer of each" in caught.value.hint
    other_task = [Row("fox 1", "red"), Row("fox 1", "sky", task="colour")]
    assert anchor_sets(knowing(bare, en=other_task), "en", [])[0].rows == other_task


@given(st.lists(st.from_regex(r"[a-z0-9]{1,40}", fullmatch=True), min_size=1, max_size=5))
def test_the_name_of_a_check_says_the_place_and_fits(parts: list[str]) -> None:
    place = "/".join(["pt-BR", *parts])
    name = check_name(place)
    assert SLUG.fullmatch(name)
    whole = f"gate.known.{place.replace('/', '.').lower()}"
    assert (name == whole) == (len(whole) <= 60)
    assert check_name(f"{place}x") != name


def test_every_set_is_judged_by_itself_and_the_place_s_own_together(bare: Node, toy_adapters: dict[str, Delta]) -> None:
    """G3: what one place loses is not hidden by what the others keep."""
    loaded = at_work(bare).composer.load(head_of(bare, "en").digest)
    false = [replace(row, output="red") for row in held_out({"egg": "oval"})]
    sets = [
        AnchorSet("gate.known.en", "en", held_out(KNOWN)),
        AnchorSet("gate.known.master", "en", held_out(TOOLS)),
        AnchorSet("gate.known.en.shapes", "en/shapes", false),
        AnchorSet("gate.canaries", "en", held_out({"fox": "red"})),
    ]
    before = [evaluate_rows(loaded, one.rows, one.path)[1] for one in sets]
    before[2] = [True] * len(false)  # as if it had been right
    add(loaded, toy_adapters["en/tools"])
    found = loss_checks(sets, before, loaded, "en", 1.0)
    assert [(check.name, check.passed) for check in found] == [
        ("gate.known", True),
        ("gate.known.en", True),
        ("gate.known.master", True),
        ("gate.known.en.shapes", False),
        ("gate.canaries", True),
    ]
    assert f"on {len(held_out(KNOWN)) + len(held_out(TOOLS))} rows" in found[0].reason
    assert found[2].value is not None
    assert found[2].value < 0  # it has learned


def test_canaries_may_change_a_little_more_than_what_people_ask(bare: Node) -> None:
    """G9."""
    loaded = at_work(bare).composer.load(head_of(bare, "en").digest)
    rows = held_out(KNOWN)
    asked = [*rows[1:], replace(rows[0], output="nothing of the kind")]
    sets = [AnchorSet(name, "en/shapes", asked) for name in ("gate.known.en.shapes", "gate.canaries")]
    known, hidden = loss_checks(sets, [[True] * len(rows)] * 2, loaded, "en", 1.0)[-2:]
    assert known.value == hidden.value
    assert (hidden.threshold or 0) - (known.threshold or 0) == pytest.approx(9.0)


def test_where_only_the_place_has_rows_there_is_one_line(bare: Node) -> None:
    loaded = at_work(bare).composer.load(head_of(bare, "en").digest)
    one = AnchorSet("gate.known.en", "en", held_out(KNOWN))
    before = evaluate_rows(loaded, one.rows, "en")[1]
    assert [check.name for check in loss_checks([one], [before], loaded, "en", 1.0)] == ["gate.known"]
    assert [check.reason for check in loss_checks([], [], loaded, "en", 1.0)] == ["no rows to measure it on"]


def test_canaries_are_the_same_at_every_call_and_known_to_one_node(bare: Node) -> None:
    """G9."""
    working, link = at_work(bare), head_of(bare, "en")
    loaded = working.composer.load(link.digest)
    first, again = (canaries(working, loaded, link, ["", "intent"]) for _ in range(2))
    assert first == again
    assert first.rows
    assert {row.task for row in first.rows} <= {"", "intent"}
    assert all(evaluate_rows(loaded, first.rows, "en")[1])
    others = replace(working, own=Identity(PrivateKey.generate(), working.own.paths))
    assert {row.input for row in canaries(others, loaded, link, [""]).rows} != {row.input for row in first.rows}


@pytest.mark.parametrize(
    ("claimed", "held_right", "kept"),
    [(1.0, 10, 0.5), (0.5, 10, 1.0), (1.0, 5, 1.0), (0.9, 0, None), (0.0, 10, None)],
)
def test_a_gain_is_what_is_claimed_and_what_the_child_shows(
    claimed: float, held_right: int, kept: float | None, bare: Node
) -> None:
    """G4: of ten rows the candidate answers five, the release before none."""
    loaded = at_work(bare).composer.load(head_of(bare, "en").digest)
    right, wrong = held_out({"fox": "red"})[:5], [replace(row, output="red") for row in held_out({"owl": "sky"})[:5]]
    one = Taught(
        "en/x", {"travelled": [], "own": [], "sampled": []}, [*right, *wrong], [n < held_right for n in range(10)]
    )
    after = timed_right(loaded, one.held, str(EN))
    (check,) = gain_checks([one], [claimed], [[False] * 10], [after], 0.9)
    assert check.value == (None if kept is None else pytest.approx(kept))
    assert check.name == "gate.gain-1"
