from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import Table
from pyarrow.parquet import write_table

from node.datasets import FORMATS, Limits, detect, load, preview, read
from registry.errors import BadData
from registry.rows import Row, split_of, write_rows


def jsonl(folder: Path, *records: Any, name: str = "rows.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return file


def refused(file: Path, **arguments: Any) -> BadData:
    with pytest.raises(BadData) as caught:
        read(file, **arguments)
    error = caught.value
    assert str(file) in error.message
    assert error.hint
    return error


EXAMPLES: dict[str, tuple[dict[str, Any], Row]] = {
    "messages": (
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
        Row("hi", "hello"),
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        Row("hi", "hello"),
    ),
    "alpaca": ({"instruction": "Translate", "input": "Haus", "output": "house"}, Row("Translate\n\nHaus", "house")),
    "input-output": (
        {"input": "card lost", "output": '{"intent":"lost"}', "task": "intent", "pair": "7", "id": 1},
        Row("card lost", '{"intent":"lost"}', task="intent", group="7"),
    ),
    "prompt-completion": ({"prompt": "2+2", "completion": "4"}, Row("2+2", "4")),
    "text": ({"text": "Once upon a time"}, Row("", "Once upon a time")),
}


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_format_is_detected_by_its_columns(name: str, tmp_path: Path) -> None:
    record, row = EXAMPLES[name]
    file = jsonl(tmp_path, record)
    assert detect(file) == name
    assert load(file) == [row]


@pytest.mark.parametrize("name", list(FORMATS))
def test_parquet_holds_every_format(name: str, tmp_path: Path) -> None:
    record, row = EXAMPLES[name]
    file = tmp_path / "rows.parquet"
    write_table(Table.from_pylist([record, record]), file)
    dataset = read(file)
    assert (dataset.format, dataset.rows) == (name, [row, row])


@pytest.mark.parametrize("name", ["alpaca", "input-output", "prompt-completion", "text"])
@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".csv", ";"), (".tsv", "\t")])
def test_tables_hold_the_flat_formats(name: str, suffix: str, separator: str, tmp_path: Path) -> None:
    record, row = EXAMPLES[name]
    file = tmp_path / f"rows{suffix}"
    with file.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.writer(stream, delimiter=separator)
        writer.writerows([list(record), list(record.values())])
    dataset = read(file)
    assert (dataset.format, dataset.rows) == (name, [row])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(max_size=30), st.text(min_size=1, max_size=30).filter(str.strip)), min_size=1, max_size=8
    )
)
def test_the_same_rows_come_out_of_every_container(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    pairs = [(a.replace("\0", "").replace("\r", ""), b.replace("\0", "x").replace("\r", "x")) for a, b in pairs]
    folder = tmp_path_factory.mktemp("same")
    records = [{"input": a, "output": b} for a, b in pairs]
    expected = [Row(a, b) for a, b in pairs]
    (folder / "rows.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
    write_table(Table.from_pylist(records), folder / "rows.parquet")
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["input", "output"], *pairs])
    assert load(jsonl(folder, *records)) == expected
    for suffix in ("json", "parquet", "csv"):
        assert load(folder / f"rows.{suffix}") == expected


def test_every_assistant_turn_is_a_row_with_its_history(tmp_path: Path) -> None:
    turns = [
        ("system", "Be brief."),
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "weather?"),
        ("tool", "sunny"),
        ("assistant", "It is sunny."),
    ]
    file = jsonl(tmp_path, {"messages": [{"role": role, "content": text} for role, text in turns]})
    first, second = load(file)
    assert (first.task, first.input, first.output, first.history) == ("Be brief.", "hi", "hello", ())
    assert (second.input, second.output) == ("", "It is sunny.")
    assert second.history == (("user", "hi"), ("assistant", "hello"), ("user", "weather?"), ("tool", "sunny"))
    assert first.group == second.group != ""
    assert split_of(first) == split_of(second)


def test_a_long_system_turn_stays_a_turn(tmp_path: Path) -> None:
    turns = [("system", "x" * 101), ("user", "hi"), ("assistant", "hello")]
    file = jsonl(tmp_path, {"messages": [{"role": role, "content": text} for role, text in turns]})
    assert load(file) == [Row("hi", "hello", history=(("system", "x" * 101),))]


def test_our_own_files_of_rows_are_read(tmp_path: Path) -> None:
    rows = [Row("a", "b", task="intent"), Row("c", "d", history=(("user", "a"), ("assistant", "b")))]
    write_rows(rows, tmp_path / "rows.jsonl")
    assert load(tmp_path / "rows.jsonl") == rows


def test_a_turn_without_weight_is_history_and_not_an_answer(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "wrong", "weight": 0},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "right"},
    ]
    assert load(jsonl(tmp_path, {"messages": turns})) == [
        Row("b", "right", history=(("user", "a"), ("assistant", "wrong")))
    ]


def test_tool_calls_become_the_json_of_the_tree(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "TurnOff", "arguments": '{"name": "lamp"}'}}
    turns = [{"role": "user", "content": "lamp off"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert load(jsonl(tmp_path, {"messages": turns}))[0].output == '{"tool":"TurnOff","args":{"name":"lamp"}}'


def test_prompt_and_completion_may_be_conversations(tmp_path: Path) -> None:
    record = {
        "prompt": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        "completion": [{"role": "assistant", "content": "d"}],
    }
    assert load(jsonl(tmp_path, record)) == [Row("c", "d", history=(("user", "a"), ("assistant", "b")))]


def test_answers_that_are_json_values_are_written_as_json(tmp_path: Path) -> None:
    file = jsonl(tmp_path, {"input": "a", "output": {"intent": "größe"}}, {"input": "b", "output": 4})
    assert [row.output for row in load(file)] == ['{"intent":"größe"}', "4"]


def test_repeated_rows_are_reported_and_kept(tmp_path: Path) -> None:
    dataset = read(
        jsonl(tmp_path, {"input": "a", "output": "b"}, {"input": "c", "output": "d"}, {"input": "a", "output": "b"})
    )
    assert dataset.duplicates == ((3, 1),)
    assert len(dataset.rows) == 3
    assert "line 3 repeats 1" in dataset.notes()[0]


def test_columns_without_a_use_are_named(tmp_path: Path) -> None:
    assert read(jsonl(tmp_path, {"input": "a", "output": "b", "id": 1})).notes() == ["columns not used: id"]


def test_the_preview_shows_beginning_middle_and_end() -> None:
    rows = [Row(str(i), "x") for i in range(9)]
    assert preview(rows, 3, lambda row: row.input) == ["0", "4", "8"]
    assert preview(rows[:2], 3, lambda row: row.input) == ["0", "1"]
    assert preview([], 3, lambda row: row.input) == []


@pytest.mark.parametrize(
    ("name", "content", "cause", "step"),
    [
        ("a.jsonl", b"", "is empty", "one row per line"),
        ("a.jsonl", b"\n  \n", "blank lines", "one row per line"),
        ("a.jsonl", b'{"input":"a","output":"b"}\n\x00\x01\x02', "binary: byte 27 (line 2)", "JSONL"),
        ("a.csv", b"\x1f\x8b\x08\x00abc", "gzip", "gunzip -k"),
        ("a.csv", b"PK\x03\x04abc", "office document", "CSV"),
        ("a.csv", "input,output\ncafé,x\n".encode("cp1252"), "line 2: byte 16 (0xe9) is not UTF-8", "WINDOWS-1252"),
        ("a.csv", "input,output\nx,y\n".encode("utf-16"), "UTF-16", "iconv -f UTF-16 "),
        ("a.csv", "input,output\nx,y\n".encode("utf-16-le"), "UTF-16LE", "iconv -f UTF-16LE"),
        ("a.csv", "input,output\nx,é".encode()[:-1], "line 2: byte 15 (0xc3)", "iconv"),
        ("a.parquet", b"hello", "does not begin as Parquet", "write it again"),
        ("a.parquet", b"PAR1hello", "cannot be read as Parquet", "cut off"),
        ("a.dat", b"hello", ".dat is not known", ".jsonl"),
        ("a.jsonl", b'{"input":"a","output":"b"}\n{"input":"a","out', "line 2: the JSON object is cut off", "complete"),
        ("a.jsonl", b'{"input":"a" "output":"b"}\n', "line 1: not JSON at column 14", "one whole JSON object"),
        ("a.jsonl", b'{"input":"a","output":"b"}\n[1]\n', "line 2: a list stands", "one whole JSON object"),
        ("a.jsonl", b'{"input":' + b"[" * 90_000, "line 1", ""),
        ("a.json", b'[{"input":"a","output":"b"},\n{"input":"a","out', "line 2: the JSON list is cut off", "list"),
        ("a.json", b'[{"input":"a","output":"b"},\n', "line 2: the JSON list is cut off", "close it"),
        ("a.json", b'[\n{"input":"a",\n"output" "b"}]', "line 3: not JSON", "correct"),
        ("a.json", b"[1, 2]", "an object with columns", "list of objects"),
        ("a.json", b"[]", "no rows", "at least one row"),
        ("a.csv", b"input,output\n", "no rows", "at least one row"),
        ("a.csv", b"input,output\na,b\na,b,c\n", "line 3: 3 cells, but the header names 2", "quotation marks"),
        ("a.csv", b'input,output\na,"b\n', "line 2: a quotation mark is not closed", '""'),
        ("a.csv", b"input,output,input\na,b,c\n", "'input' stands in the header twice", "rename"),
        ("a.csv", b"question,answer\na,b\n", "'question', 'answer'", "'question' to 'input', 'answer' to 'output'"),
        ("a.csv", b"promt,completion\na,b\n", "'promt'", "rename 'promt' to 'prompt'"),
        ("a.csv", b"a,b\na,b\n", "prompt, completion (prompt-completion)", "rename the columns"),
        ("a.jsonl", b'{"input":"a","output":null}\n', "line 1: `output` is null", "remove the row"),
        ("a.csv", b"input,output\na,b\na,\n", "line 3: `output` is empty", "remove the row"),
        ("a.jsonl", b'{"input":"a","output":"  "}\n', "line 1: `output` is blank", "remove the row"),
        ("a.jsonl", b'{"input":["a"],"output":"b"}\n', "line 1: `input` is a list", "as a text"),
        ("a.jsonl", b'{"input":"\\ud83d","output":"b"}\n', "lone surrogate", "UTF-8"),
        (
            "a.jsonl",
            b'{"input":"a","output":"b"}\n{"prompt":"a","completion":"b"}\n',
            "line 2: the columns are those of prompt-completion, but the rows before are input-output",
            "different files",
        ),
        ("a.jsonl", b'{"input":"a","output":"b"}\n{"input":"a"}\n', "line 2: `output` is missing", "output"),
        ("a.jsonl", b'{"input":"a","output":"b","task":"' + b"t" * 101 + b'"}\n', "`task` has 101", "a word or two"),
        ("a.jsonl", b'{"input":"a","output":"b","history":"x"}\n', "`history` is not a list", "assistant"),
        ("a.jsonl", b'{"messages":[]}\n', "line 1: `messages` is an empty list", "role"),
        ("a.jsonl", b'{"messages":[{"role":"usr","content":"a"}]}\n', "the role 'usr'", "did you mean 'user'"),
        ("a.jsonl", b'{"messages":[{"role":"user","content":"a"}]}\n', "no assistant turn", "add the answer"),
        ("a.jsonl", b'{"messages":[{"role":"assistant","content":null}]}\n', "no content (null)", "remove"),
        (
            "a.jsonl",
            b'{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}\n',
            "images or sound",
            "remove the conversation",
        ),
    ],
)  # fmt: skip
def test_bad_files_are_refused_with_place_cause_and_next_step(
    name: str, content: bytes, cause: str, step: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    error = refused(file)
    assert cause in error.message
    assert step in error.hint


def test_a_wrong_byte_is_found_past_the_first_block(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    good = b"input,output\n" + "ä,b\n".encode() * 300_000
    file.write_bytes(good + b"\xe4,b\n")
    error = refused(file)
    assert f"line 300002: byte {len(good)} (0xe4)" in error.message
    assert "'ä,b'" in error.message


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "there is no file" in refused(tmp_path / "none.jsonl").message
    assert "not a regular file" in refused(tmp_path).message


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_a_row_longer_than_the_limit_is_refused(suffix: str, tmp_path: Path) -> None:
    limits = Limits(row_chars=50)
    record = {"input": "a" * 300_000, "output": "b"}
    file = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        write_table(Table.from_pylist([record]), file)
    elif suffix == "csv":
        file.write_text(f"input,output\n{record['input']},b\n")
    else:
        file.write_text(json.dumps(record if suffix == "jsonl" else [record]))
    assert "more than 50 characters" in refused(file, limits=limits).message


def test_more_rows_and_bytes_than_the_limits_are_refused(tmp_path: Path) -> None:
    file = jsonl(tmp_path, *[{"input": str(i), "output": "x"} for i in range(11)])
    assert "more than 10 rows" in refused(file, limits=Limits(rows=10)).message
    error = refused(file, limits=Limits(file_bytes=100))
    assert "more than the 100" in error.message
    assert "head -n" in error.hint


def test_a_long_json_list_is_read_in_pieces(tmp_path: Path) -> None:
    records = [{"input": f"{i} ]}},{{[", "output": "x" * (i % 40)} for i in range(1, 300)]
    records = [{**record, "output": record["output"] + "."} for record in records]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(records))
    assert [row.input for row in load(file, limits=Limits(row_chars=120))] == [record["input"] for record in records]


def test_the_named_format_wins_over_the_detected_one(tmp_path: Path) -> None:
    file = jsonl(tmp_path, {"instruction": "i", "input": "a", "output": "b"})
    assert load(file, "input-output") == [Row("a", "b")]
    assert "`text` is missing, which the format text needs" in refused(file, format="text").message


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    file = jsonl(tmp_path, {"text": "a"})
    assert read(file).file.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
