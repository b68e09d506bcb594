"""What this node measured, and what releases state of themselves, when models are recommended."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from node.context import Node
from node.own_scores import own_scores
from node.recommending import Shelf, stated
from node.tree import list_tree
from recommender.answers import Recommendations
from recommender.constraints import Constraints
from recommender.hardware import described_machine
from registry.evidence import RowsOf, measured
from registry.paths import NodePath
from registry.rows import Row
from registry.store import select
from registry.tables import HeadRow, ReleaseRow
from tests.world import make_node, put_tree

NOW = datetime(2026, 11, 21, tzinfo=UTC)
ROWS = [Row(f"request {number}", f'{{"intent":"i{number % 7}"}}', "intent") for number in range(200)]
SORTING = stated({"task": "text-classification", "languages": ("en",), "domain": "finance"})


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = make_node(tmp_path / "home", "en", "en/finance", "en/finance/cards")
    put_tree(node, "en", "en/finance", "en/finance/cards")
    yield node
    node.close()


def measure(node: Node, path: str, right: int, *, release: str = "") -> None:
    bits = [number < right for number in range(len(ROWS))]
    figures = {"exact_match": right / len(ROWS), "seconds": 1.0}
    with node.store.transaction() as session:
        head = session.get(HeadRow, path)
        assert head is not None
        named = release or head.release
        session.add(measured(path, named, RowsOf.of(ROWS), figures, len(ROWS), NOW, machine="m", right=bits))


def recommended(node: Node, need: Constraints, *, tree_only: bool = False) -> Recommendations:
    return Shelf(node).recommend(need, described_machine(device="cpu", memory_gb=16), 5, NOW, tree_only=tree_only)


def test_a_model_that_was_measured_on_what_is_asked_for_is_found(node: Node) -> None:
    before = recommended(node, SORTING)
    assert all(answer.candidate.source == "table" for answer in before.answers)
    measure(node, "en/finance", 170)
    found = recommended(node, SORTING)
    first = found.answers[0]
    assert (first.candidate.id, first.quality, first.grade) == ("en/finance", 85.0, "measured here")
    assert first.low is not None and 80 < first.low < 85
    assert first.basis == "85.0 % of 200 rows right (intent, en, finance), measured here on 2026-11-21"
    assert any("different scales" in line for line in found.why)
    elsewhere = recommended(node, stated({"task": "summarization", "languages": ("de",)}))
    assert elsewhere.answers[0].candidate.source == "table"
    assert not any("scales" in line for line in elsewhere.why)


def test_evidence_counts_as_soon_as_it_is_there(node: Node) -> None:
    shelf, machine = Shelf(node), described_machine(device="cpu", memory_gb=16)
    assert shelf.recommend(SORTING, machine, 1, NOW).answers[0].candidate.id != "en/finance"
    measure(node, "en/finance", 170)
    assert shelf.recommend(SORTING, machine, 1, NOW).answers[0].candidate.id == "en/finance"


def test_two_releases_that_were_asked_the_same_rows_are_compared_on_them(node: Node) -> None:
    measure(node, "en/finance", 100)
    measure(node, "en/finance/cards", 160)
    found = recommended(node, SORTING, tree_only=True)
    said = next(line for line in found.why if "on the same 200 rows" in line)
    assert said.startswith(("en/finance against en/finance/cards", "en/finance/cards against"))
    assert "30.0 points" in said


def test_a_measurement_of_another_version_does_not_count(node: Node) -> None:
    measure(node, "en/finance", 170, release="7" * 64)
    assert recommended(node, SORTING).answers[0].candidate.id != "en/finance"


def test_what_the_parent_signed_is_measured_elsewhere(node: Node) -> None:
    with node.store.transaction() as session:
        for row in session.scalars(select(ReleaseRow).where(ReleaseRow.path == "en/finance")):
            row.own = False
    places = list_tree(node, NodePath.parse("master"), NOW)
    scores = {score.model: score for score in own_scores(node, places)}
    signed = scores["en/finance"]
    assert (signed.score, signed.rows, signed.here) == (75.0, 200, False)
    assert signed.source == "the signer of en/finance@v1"
    assert (signed.languages, signed.domains, signed.task) == (("en",), ("finance",), "")
    assert scores["en"].here  # signed by this node itself
    measure(node, "en/finance", 170)
    both = [score for score in own_scores(node, places) if score.model == "en/finance"]
    assert [score.here for score in both] == [True, False]
    first = recommended(node, SORTING, tree_only=True).answers[0]
    assert (first.candidate.id, first.grade) == ("en/finance", "measured here")
