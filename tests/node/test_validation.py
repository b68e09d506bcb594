from __future__ import annotations

from pathlib import Path

import pytest

from node.validation import MAX_CANARIES, add_validation, canary_rows, store_validation, validation_rows
from registry.errors import BadData
from registry.home import Home
from registry.paths import NodePath
from registry.rows import Row, write_rows

MASTER, EN, CARDS = (NodePath.parse(text) for text in ("master", "en", "en/cards"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.create()
    return made


def test_rows_of_a_path_and_above_it_nearest_first(home: Home) -> None:
    """Candidates are judged on the first so many of them: the rows of the place itself must be among those."""
    rows = {path: [Row(f"{path} {n}", "x") for n in range(3)] for path in (MASTER, EN, CARDS)}
    for path, table in rows.items():
        store_validation(home, path, table)
    assert validation_rows(home, CARDS) == [*rows[CARDS], *rows[EN], *rows[MASTER]]
    assert validation_rows(home, EN) == [*rows[EN], *rows[MASTER]]
    assert validation_rows(home, NodePath.parse("de")) == rows[MASTER]


def test_without_files_there_are_no_rows(home: Home) -> None:
    assert validation_rows(home, CARDS) == []


def test_what_an_operator_has_put_there_stays(home: Home) -> None:
    (home.validation / "en.jsonl").write_text('{"input":"mine","output":"yes"}\n')
    store_validation(home, EN, [Row("yours", "no")])
    assert validation_rows(home, EN) == [Row("mine", "yes")]


def test_rows_are_added_once(home: Home) -> None:
    add_validation(home, EN, [Row("a", "1"), Row("b", "2")])
    add_validation(home, EN, [Row("b", "other"), Row("c", "3"), Row("a", "1", task="t")])
    expected = [Row("a", "1"), Row("b", "2"), Row("c", "3"), Row("a", "1", task="t")]
    assert validation_rows(home, EN) == expected
    assert validation_rows(home, MASTER) == []


def test_a_file_that_is_not_rows_is_told(home: Home) -> None:
    (home.validation / "en.jsonl").write_text("hello\n")
    with pytest.raises(BadData, match=r"en\.jsonl, line 1"):
        validation_rows(home, EN)


def test_the_rows_are_their_owner_s_alone(home: Home) -> None:
    store_validation(home, EN, [Row("a", "1")])
    add_validation(home, EN, [Row("b", "2")])
    assert (home.validation / "en.jsonl").stat().st_mode & 0o077 == 0
    assert [file.name for file in home.validation.iterdir()] == ["en.jsonl"]


def test_canaries_of_a_path_and_above_it_are_what_the_operator_wrote(home: Home) -> None:
    """C29."""
    assert canary_rows(home, CARDS) == []
    home.canaries.mkdir()
    for path in (MASTER, CARDS):
        write_rows(
            [Row(f"{path} {n}", "x") for n in range(MAX_CANARIES - 1)],
            home.canaries / f"{str(path).replace('/', '.')}.jsonl",
        )
    found = canary_rows(home, CARDS)
    assert [row.input for row in found[-2:]] == ["en/cards 198", "master 0"]
    assert len(found) == MAX_CANARIES
    assert len(canary_rows(home, EN)) == MAX_CANARIES - 1
