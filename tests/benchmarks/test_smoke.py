from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import measure, write
from tests.benchmarks.rounds import Bound, Figure, Result, Scale, interleaved, times_as_fast

MACHINE = {"processor", "cores", "usable_cores", "threads", "versions", "load_average", "load_average_after", "date"}
EXPECTED = {
    "cold-start": {"python -c pass", "node --help", "node tree --json"},
    "checks": {f"0.5 MB, {stage}" for stage in ("envelope", "stage 1", "stage 2", "stage 3")} | {"stage 7"},
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
