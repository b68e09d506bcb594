from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.benchmarks.rounds import Figure, Scale
from tests.benchmarks.serving.__main__ import measure, parsed
from tests.benchmarks.serving.arms import Answered, Arms, NotInstalledError, opened
from tests.benchmarks.serving.jobs import Job, zipf
from tests.benchmarks.serving.other_pythons import python_of
from tests.benchmarks.serving.plots import draw
from tests.benchmarks.serving.programs import LeastWork
from tests.benchmarks.serving.table import Table
from tests.benchmarks.serving.wire import KEPT_S, Wire

MACHINE = {"processor", "flags", "cores", "usable_cores", "threads", "versions", "load_average", "date"}
COLUMNS = {
    "adapters-12M": ("1", {"ours fp32", "ours fp32, no adapter", "PEFT mixed fp32"}),
    "prefixes": ("few-shot", {"ours fp32", "ours fp32, nothing shared", "generate_batch fp32"}),
    "schemas": ("a step", {"no schema", "with a schema"}),
    "first-token": ("nothing", {"no new release", "q and v", "all linear"}),
    "overhead": ("p95", {"engine", "HTTP"}),
    "bad-input": ("n = 10^9 (400)", {"ms"}),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_table_is_measured_with_its_machine(name: str) -> None:
    text, record, kept = measure(name, Scale(rounds=1, smallest=True), 1, {})
    json.dumps(record)
    assert kept
    assert record["machine"].keys() >= MACHINE
    assert {"load_average", "others", "round", "what"} <= record["moments"][0].keys()
    row, columns = COLUMNS[name]
    assert record["rows"][row].keys() >= columns
    assert all(cell["median"] > 0 for columns in record["rows"].values() for cell in columns.values())
    assert record["unequal"] == {}
    assert row in text


def two_rows() -> Table:
    table = Table("a title", "K")
    for row, ours in (("1", [6.0, 8.0]), ("4", [3.0, 1.0])):
        table.add(row, "/s", {"ours": ours, "theirs": [2.0, 1.0]})
        table.ratio(row, "ours", "theirs", least=3.0)
        table.ratio(row, "ours", "somebody who did not run", least=3.0)
    return table


def test_a_ratio_is_taken_within_rounds_and_has_to_hold() -> None:
    table = two_rows()
    assert table.figures["1: ours / theirs"].rounds == [3.0, 8.0]
    assert [bound.figure for bound in table.broken()] == ["4: ours / theirs"]
    assert table.as_text().count("NOT KEPT") == 1
    assert len(table.figures) == 2


def test_a_picture_needs_lines(tmp_path: Path) -> None:
    data = two_rows().as_data()
    assert draw(data, tmp_path / "lines.svg")
    assert "<svg" in (tmp_path / "lines.svg").read_text()
    del data["rows"]["4"]
    assert not draw(data, tmp_path / "none.svg")


def test_many_contenders_are_shown_one_below_the_other() -> None:
    table = Table("a title", "K")
    table.add("1", "/s", {f"contender {number}": [1.0] for number in range(6)})
    assert [line.split()[0] for line in table.as_text().splitlines()[2:]] == ["K", *["contender"] * 6]


class Parrot:
    """Answers with what it was made with."""

    closed = 0

    def __init__(self, *tokens: int) -> None:
        self._tokens = list(tokens)

    def answer(self, jobs: Sequence[Job]) -> Answered:
        return Answered(1.0, [str(self._tokens)] * len(jobs), [self._tokens] * len(jobs))

    def close(self) -> None:
        type(self).closed += 1


def test_who_is_not_there_or_answers_otherwise_is_named() -> None:
    def missing() -> Parrot:
        raise NotInstalledError("why")

    with opened({"a": lambda: Parrot(1), "b": lambda: Parrot(1), "c": lambda: Parrot(2), "d": missing}) as arms:
        arms.compare([Job("", (1,), 1)], "a")
        assert (arms.ready.keys(), arms.absent) == ({"a", "b", "c"}, {"d": "why"})
        assert arms.unequal == {"c": "1 of 1 answers differ"}
        rounded = Arms(arms.ready, {})
        rounded.compare([Job("", (1,), 1)], "a", rounded=("c",))
        assert rounded.unequal == {}
    assert Parrot.closed == 3


def test_the_least_work_counts_every_beginning_once() -> None:
    least = LeastWork()
    jobs = [Job("", (1, 2, 3), 2), Job("", (1, 2, 4), 2), Job("", (1, 2, 3), 2)]
    least.count(jobs, [[5, 6], [7, 8], [5, 6]])
    assert (least.asked, least.needed) == (9, 3 + 1 + 1)
    least.count([Job("", (1, 2, 3, 5, 6), 1)], [[9]])  # 6 was made and never run
    assert (least.asked, least.needed) == (14, 5 + 1)


def test_popular_kinds_come_more_often() -> None:
    drawn = Counter(zipf(0, 16, 4_000))
    assert set(drawn) <= set(range(16))
    assert drawn[0] > 1.5 * drawn[1] > 1.5 * drawn[3]
    assert zipf(3, 16, 10) == zipf(3, 16, 10)


def test_a_peer_is_looked_for_where_it_is_said_to_be() -> None:
    given = parsed(["batches-12M", "--peer-python", "llama-cpp=/some/python"])
    assert python_of("llama-cpp", dict(pair.split("=", 1) for pair in given.peer_python)) == "/some/python"
    with pytest.raises(SystemExit):
        parsed(["--peer-python", "llama-cpp"])


def test_a_figure_has_the_distance_of_its_quartiles() -> None:
    assert Figure.of("s", [1.0, 2.0, 3.0]).iqr == 1.0


def test_a_connection_that_was_idle_for_long_is_not_used_again() -> None:
    now, connections = [0.0], 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with closing(writer), suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    async def asked() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            wire = Wire(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", lambda: now[0])
            for wait_s, used in ((0.0, 1), (KEPT_S - 1, 1), (KEPT_S + 1, 2), (0.0, 2)):
                now[0] += wait_s
                assert await wire.post("/", b"") == (200, b"{}")
                assert connections == used
            wire.close()

    asyncio.run(asked())
