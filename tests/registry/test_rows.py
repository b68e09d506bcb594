"""Rows travel as strict JSONL and come back as they were; their place in a split never moves."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadData, LocalFailure
from registry.rows import MAX_ROW_BYTES, Row, of_split, read_rows, read_tree_rows, split_of, write_rows

LIMIT = 10**6
PLACES = st.sampled_from(
    [("", "", ""), ("en", "", ""), ("en", "health", ""), ("de", "law", "civil"), ("pt-BR", "a", "b/c")]
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    lang, domain, subdomain = draw(PLACES)
    history = tuple(draw(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), TEXTS), max_size=2)))
    return Row(
        draw(TEXTS), draw(TEXTS), draw(st.sampled_from(["", "intent"])), lang, domain, subdomain, history=history
    )


@given(written=st.lists(rows(), max_size=5))
def test_rows_come_back_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, written: list[Row]) -> None:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_rows(written, file)
    assert read_rows(file, LIMIT) == written
    first = file.read_bytes()
    write_rows(iter(written), file)
    assert file.read_bytes() == first


def test_a_row_is_one_line_with_only_what_it_has(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    row = Row("Größe?\n", '{"a":1}', "intent", "en", "finance", "cards", group="secret pair 7")
    write_rows([row, Row("", "b")], file)
    lines = file.read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {
        "input": "Größe?\n", "output": '{"a":1}', "task": "intent", "path": "en/finance/cards"
    }  # fmt: skip
    assert json.loads(lines[1]) == {"input": "", "output": "b"}
    assert read_rows(file, LIMIT)[0] == replace(row, group="")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_json_of_any_spelling_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{ "output": "\\u00e4", "input": "a" }\r\n{"input":"c","output":"d"}')
    assert read_rows(file, LIMIT) == [Row("a", "ä"), Row("c", "d")]


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    assert read_rows(tmp_path / "rows.jsonl", LIMIT) == []


GOOD = b'{"input":"a","output":"b"}'


@pytest.mark.parametrize(
    "line",
    [
        b"", b" ", b"[]", b"null", b"a,b", b'"text"', b'{"input":"a"}', b'{"output":"a"}', b'{"input":1,"output":"b"}',
        b'{"input":null,"output":"b"}', b'{"input":"a","output":{"b":1}}', b'{"input":"a","output":"b","more":1}',
        b'{"input":"a","output":"b","output":"c"}', b'{"input":"a","output":"b"', b'{"input":"\xff","output":"b"}',
        b'{"input":"\\ud800","output":"b"}', b'{"input":"a","output":"b","path":"EN"}', b'{"input":"a","output":"b"}{}',
        b'{"input":"a","output":"b","path":"../etc"}', b'{"input":"a","output":"b","task":""}', b"\x00", b"[" * 10_000,
        b'{"input":"a","output":"b","history":[["user"]]}', b'{"input":"a","output":"b","group":"g"}',
        b'{"input":"' + b"a" * MAX_ROW_BYTES + b'","output":"b"}', b'\xef\xbb\xbf{"input":"a","output":"b"}',
    ],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, line: bytes) -> None:
    """U10."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes(GOOD + b"\n" + line + b"\n" + GOOD + b"\n")
    with pytest.raises(BadData, match=r"rows\.jsonl, line 2: ") as refusal:
        read_rows(file, LIMIT * 2)
    assert len(refusal.value.message) < 600


def test_a_file_has_a_largest_size(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(GOOD)
    assert read_rows(file, len(GOOD)) == [Row("a", "b")]
    with pytest.raises(BadData, match="larger than"):
        read_rows(file, len(GOOD) - 1)


def test_a_file_has_as_many_rows_as_it_may(tmp_path: Path) -> None:
    """C21: a file of too many rows is refused before the first of them is read."""
    file = tmp_path / "rows.jsonl"
    write_rows([Row(str(n), "") for n in range(3)], file)
    for most in (3, 4, None):
        assert len(read_rows(file, LIMIT, most)) == 3
    for most in (0, 2):
        with pytest.raises(BadData, match=f"more than {most} rows"):
            read_rows(file, LIMIT, most)
    file.write_bytes(b"nonsense\n" * 3)
    with pytest.raises(BadData, match="more than 2 rows"):
        read_rows(file, LIMIT, 2)


def test_a_file_that_cannot_be_read_or_written_is_a_local_failure(tmp_path: Path) -> None:
    for file in (tmp_path / "missing", tmp_path):
        with pytest.raises(LocalFailure):
            read_rows(file, LIMIT)
    with pytest.raises(LocalFailure):
        write_rows([Row("a", "b")], tmp_path / "missing" / "rows.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device that is always full is Linux's")
def test_a_full_disk_is_a_local_failure(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").symlink_to("/dev/full")
    with pytest.raises(LocalFailure, match="No space left"):
        write_rows([Row("a", "b")], tmp_path / "rows.jsonl")
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.parametrize(
    "row",
    [Row("\ud800", "b"), Row("a", "b", lang="English"), Row("a", "b", domain="law"), Row("a", "b", task="x" * 101)],
)
def test_a_row_that_could_not_be_read_back_is_not_written(tmp_path: Path, row: Row) -> None:
    with pytest.raises(BadData, match="row 2"):
        write_rows([Row("a", "b"), row], tmp_path / "rows.jsonl")
    assert not (tmp_path / "rows.jsonl").exists()


def test_the_tree_s_rows_are_read_with_their_place(tmp_path: Path) -> None:
    file = tmp_path / "a.train.jsonl"
    record = {
        "id": "1",
        "lang": "en",
        "domain": "law",
        "subdomain": "civil",
        "task": "qa",
        "input": "a",
        "output": "b",
        "pair": "7",
    }
    file.write_text(json.dumps(record) + "\n")
    assert list(read_tree_rows(file)) == [Row("a", "b", "qa", "en", "law", "civil", "7")]


def test_splits_part_the_rows_and_keep_groups_together() -> None:
    some = [Row(str(number), "", group=str(number // 3)) for number in range(3000)]
    parts = [of_split(some, split) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(some)
    assert len({row.group for part in parts for row in part}) == sum(len({row.group for row in part}) for part in parts)
    assert 0.84 < len(parts[0]) / len(some) < 0.90
    assert split_of(Row(" Where is MY card ", "x")) == split_of(Row("where is my card", "y"))
