from __future__ import annotations

import hashlib
import json
import os
from functools import partial
from pathlib import Path

import pytest

from registry.blobs import BlobStore
from registry.errors import BadData
from sync.transport import HttpTransport
from tests.benchmarks.__main__ import measure, write
from tests.benchmarks.bulk import Bulk
from tests.benchmarks.endless import endless_peer
from tests.benchmarks.memory import Watched, until
from tests.benchmarks.rounds import Bound, Figure, Result, Scale, interleaved, times_as_fast

MACHINE = {"processor", "cores", "usable_cores", "threads", "versions", "load_average", "load_average_after", "date"}
EXPECTED = {
    "cold-start": {"python -c pass", "node --help", "node tree --json"},
    "checks": {f"0.5 MB, {stage}" for stage in ("envelope", "stage 1", "stage 2", "stage 3")} | {"stage 7"},
    "update-cost": {f"1 MB, {part}" for part in ("files taken in", "stage files, a MB", "stage size", "together")},
    "inbox": {"SQLite, 1 at a time", "SQLite, 1 at a time, p95"},
    "idle-round": {f"1 listed, {part}" for part in ("exchange", "log", "timestamp alone", "bytes", "requests")},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_benchmark_writes_its_figures_with_the_machine(tmp_path: Path, name: str) -> None:
    file = tmp_path / "results.json"
    file.write_text('{"another": {}}')
    _, record = measure(name, Scale(rounds=1, smallest=True))
    write(name, record, file)
    results = json.loads(file.read_text())
    assert results.keys() == {"another", name}
    assert results[name].keys() == {"machine", "setting", "figures", "bounds"}
    assert results[name]["machine"].keys() >= MACHINE
    assert {"python", "torch", "transformers", "peft"} <= results[name]["machine"]["versions"].keys()
    figures = results[name]["figures"]
    assert figures.keys() >= EXPECTED[name]
    for figure in figures.values():
        assert figure.keys() == {"unit", "median", "iqr", "rounds"}
        assert (figure["rounds"], figure["iqr"]) == ([figure["median"]], 0)
        assert figure["median"] > 0


def test_many_bytes_are_what_their_description_says(tmp_path: Path) -> None:
    blobs, bulk = BlobStore(tmp_path / "blobs", tmp_path / "partial"), Bulk(3_000_001, 7)
    data = b"".join(bulk.piece(at, min(999_999, bulk.size - at)) for at in range(0, bulk.size, 999_999))
    file = bulk.put(blobs, "LICENSE")
    assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert blobs.open_verified(file.sha256).read_bytes() == data
    assert file.sha256 != Bulk(3_000_001, 8).described("LICENSE").sha256


def test_an_endless_peer_counts_what_was_taken() -> None:
    transport = HttpTransport(allow_private=True)
    with endless_peer() as peer:
        with pytest.raises(BadData, match="more than 1000000 bytes"):
            transport.get(f"{peer.url}/v1/heads", max_bytes=1_000_000, timeout_s=60)
        until(lambda: bool(peer.taken), "the end of the connection")
    assert 1_000_000 < peer.taken[0] < 50_000_000


def test_the_peak_of_a_process_is_that_of_the_work() -> None:
    watched = Watched(os.getpid())
    watched.during("zeros", lambda: bytearray(b"1" * 50_000_000))
    assert watched.figures["zeros, growth at the peak"].median > 40


def test_rounds_are_interleaved_and_begin_with_another_contender_each_time() -> None:
    order: list[str] = []

    def contender(name: str) -> float:
        order.append(name)
        return len(order)

    found = interleaved({name: partial(contender, name) for name in "abc"}, 3)
    assert "".join(order) == "abcbcacab"
    assert found == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_a_ratio_is_taken_within_each_round() -> None:
    figure = times_as_fast([1.0, 2.0, 4.0], [2.0, 2.0, 2.0])
    assert (figure.rounds, figure.median, figure.iqr) == ([2, 1, 0.5], 1, 0.75)


def test_a_bound_is_on_the_median() -> None:
    figures = {"ratio": Figure.of("x", [0.5, 1.0, 1.5])}
    kept, broken = Bound("ratio", least=1.0), Bound("ratio", most=0.9)
    assert Result({}, figures, [kept, broken]).broken() == [broken]
