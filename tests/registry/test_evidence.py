"""What rows are of, as far as they say it, and what is kept of a measurement on them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from registry.evidence import RowsOf, measured, packed, unpacked
from registry.rows import Row
from registry.store import Store, file_url, select
from registry.tables import EvidenceRow, FeedbackRow

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CARDS = [
    Row(f"request {number}", f'{{"intent":"i{number % 3}"}}', "intent", "en", "finance", "banking")
    for number in range(30)
]


def test_rows_of_one_kind_say_what_they_are_of() -> None:
    found = RowsOf.of(CARDS)
    assert (found.task, found.languages, found.domains) == ("intent", ("en",), ("finance", "banking"))
    assert found.exact
    assert RowsOf.of(list(CARDS)) == found
    assert RowsOf.of(CARDS[:-1]).digest != found.digest
    placed_elsewhere = [replace(row, lang="de", domain="law") for row in CARDS]
    assert RowsOf.of(placed_elsewhere).digest == found.digest  # the same questions with the same answers


def test_rows_of_several_kinds_are_of_none_of_them() -> None:
    other = Row("hallo", '{"intent":"hi"}', "topic", "de", "law", "")
    found = RowsOf.of([*CARDS, other])
    assert (found.task, found.languages, found.domains) == ("", ("de", "en"), ("general",))
    within = RowsOf.of([*CARDS, replace(CARDS[0], subdomain="insurance")])
    assert within.domains == ("finance",)


def test_rows_that_say_nothing_are_sorting_where_their_answers_are_few_and_short() -> None:
    bare = [Row(row.input, row.output) for row in CARDS]
    assert (RowsOf.of(bare).task, RowsOf.of(bare).languages, RowsOf.of(bare).domains) == ("text-classification", (), ())
    assert RowsOf.of([Row(str(number), f"answer {number}") for number in range(30)]).task == ""
    assert RowsOf.of(bare[:5]).task == ""


def test_the_share_of_equal_answers_is_no_score_of_free_text() -> None:
    told = [Row("tell", "Once upon a time there was a node that lived in a tree.") for _ in range(20)]
    free = measured("en", "1" * 64, RowsOf.of(told), {"exact_match": 0.0}, 20, NOW, machine="m")
    assert free.score is None
    assert measured("en", "1" * 64, RowsOf.of(CARDS), {"exact_match": 0.8}, 30, NOW, machine="m").score == 80
    assert not RowsOf.of([]).exact


@given(st.lists(st.booleans(), max_size=70))
def test_bits_come_back(bits: list[bool]) -> None:
    assert unpacked(packed(bits), len(bits)) == bits


def test_evaluations_of_older_versions_become_evidence(tmp_path: Path) -> None:
    url = file_url(tmp_path / "banyan.db")
    engine = create_engine(url)
    config = Config()
    config.set_main_option("script_location", "registry:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0006")
        connection.execute(
            text(
                """INSERT INTO evaluations VALUES (1, 'aa', 'en/finance', 'bb', '{"exact_match": 0.75}', 200, 1.5,"""
                " 'm', '2026-03-01 00:00:00.000000')"
            )
        )
    engine.dispose()
    store = Store.open(url)
    with store.read() as session:
        row = session.scalars(select(EvidenceRow)).one()
    store.close()
    assert (row.model, row.release, row.score, row.rows, row.here) == ("en/finance", "aa", 75, 200, True)
    assert row.created == NOW


@pytest.mark.parametrize("rating", [0, 6])
def test_a_rating_is_one_to_five(tmp_path: Path, rating: int) -> None:
    store = Store.open(file_url(tmp_path / "banyan.db"))
    with pytest.raises(IntegrityError), store.transaction() as session:
        session.add(FeedbackRow(model="en", voice="", kind="rating", rating=rating, created=NOW))
    store.close()
