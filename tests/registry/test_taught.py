from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import BadData
from registry.rows import Row
from registry.taught import TaughtRow, read_taught, write_taught

HALF = math.log(0.5)
LINES: list[dict[str, Any]] = [
    {"input": "one", "output": "1", "top": [[[7, -0.1], [8, -3.0]], [[1, 0.0], [2, -9.0]]]},
    {"input": "two", "output": "2", "task": "intent", "top": [[[9, -0.5], [3, -1.5]]]},
]


def written(folder: Path, lines: list[dict[str, Any]]) -> Path:
    file = folder / "answers.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def line(**changes: Any) -> dict[str, Any]:
    return {**LINES[0], **changes}


def test_a_set_is_read_as_it_was_declared(tmp_path: Path) -> None:
    """U14."""
    found = read_taught(written(tmp_path, LINES), 1 << 20, 2, 2)
    assert found[0] == TaughtRow(Row("one", "1"), (((7, -0.1), (8, -3.0)), ((1, 0.0), (2, -9.0))))
    assert found[1].row == Row("two", "2", task="intent")
    plain = [{key: value for key, value in one.items() if key != "top"} for one in LINES]
    assert [one.top for one in read_taught(written(tmp_path, plain), 1 << 20, 2, 0)] == [(), ()]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), min_size=1, max_size=4))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, weights: list[list[float]]) -> None:
    file = tmp_path_factory.mktemp("set") / "answers.jsonl"
    shares = [sorted((w / sum(at) for w in at), reverse=True) for at in weights]
    top = tuple(tuple((token, math.log(share)) for token, share in enumerate(at)) for at in shares)
    write_taught([TaughtRow(Row("a", "b", task="t"), top)], file)
    [found] = read_taught(file, 1 << 20, 1, 3)
    assert found.row == Row("a", "b", task="t")
    assert all(
        abs(x[1] - y[1]) < 1e-4
        for one, other in zip(found.top, top, strict=True)
        for x, y in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([line(top=[[[7, -0.1], [8, -0.2]]])], "more than one together"),
        ([line(top=[[[7, HALF], [7, HALF]]])], "named twice"),
        ([line(top=[[[7, -2.0], [8, -1.0]]])], "not the first"),
        ([line(top=[[[7, -0.1]]])], "1 log-probabilities at token 1, 2 were declared"),
        ([line(top=[[[7, 0.5], [8, -3.0]]])], "less than or equal to 0"),
        ([line(top=[[[-1, -0.1], [8, -3.0]]])], "greater than or equal to 0"),
        ([line(top=[[[1.5, -0.1], [8, -3.0]]])], "integer"),
        ([line(top=[[["7", -0.1], [8, -3.0]]])], "integer"),
        ([line(top=[[[1 << 40, -0.1], [8, -3.0]]])], "less than"),
        ([line(top=[])], "at least 1"),
        ([line(top=[[]])], "at least 1"),
        ([line(top=None) | {"extra": 1}], "extra"),
        ([{"input": "one", "output": "1"}], "no log-probabilities"),
        ([line(), line()], "line 2: asks what line 1 asks"),
        ([line(), line(output="2")], "contradicts its answer"),
        ([line(output="")], "has no answer"),
        ([line(path="no path!")], "path"),
    ],
)
def test_a_bad_set_is_refused_by_its_line(lines: list[dict[str, Any]], said: str, tmp_path: Path) -> None:
    """C32: rows that contradict each other, and what is no distribution."""
    with pytest.raises(BadData, match=said):
        read_taught(written(tmp_path, lines), 1 << 20, len(lines), 2)


def test_what_is_not_a_number_is_refused(tmp_path: Path) -> None:
    """C32."""
    for value in ("NaN", "-Infinity", "-1e999"):
        file = tmp_path / "answers.jsonl"
        file.write_text('{"input":"a","output":"b","top":[[[1,' + value + "],[2,-9.0]]]}\n")
        with pytest.raises(BadData, match="line 1"):
            read_taught(file, 1 << 20, 1, 2)


def test_undeclared_choices_and_other_numbers_of_rows_are_refused(tmp_path: Path) -> None:
    """C32."""
    file = written(tmp_path, LINES)
    with pytest.raises(BadData, match="undeclared"):
        read_taught(file, 1 << 20, 2, 0)
    with pytest.raises(BadData, match="has 2 rows, 3 were declared"):
        read_taught(file, 1 << 20, 3, 2)
    with pytest.raises(BadData, match="more than 1 rows"):
        read_taught(file, 1 << 20, 1, 2)
    with pytest.raises(BadData, match="larger"):
        read_taught(file, 20, 2, 2)
