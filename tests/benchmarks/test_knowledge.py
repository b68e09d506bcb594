"""The studies on a handful of rows: that they run, go on where they were, and count as they say."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.starter import BUNDLED
from registry.rows import Row
from simulations.learning.intervals import interval
from tests.benchmarks.knowledge import continual, grafts, levels
from tests.benchmarks.knowledge.charts import bars
from tests.benchmarks.knowledge.study import Study, share_cells, shared_cells


def few(name: str, count: int = 60) -> list[Row]:
    """Rows of a made-up domain; the hash of the request divides them."""
    return [Row(f"{name} {n}", f"{name[0]}{n % 2}") for n in range(count)]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study of a few rows and one short epoch."""
    plan = {"rank": 2, "alpha": 2.0, "epochs": 1, "targets": ("q_proj",)}
    for module in (continual, grafts):
        monkeypatch.setattr(module, "PLAN", replace(module.PLAN, **plan))
        monkeypatch.setattr(module, "sizes", lambda study: (6, 2, 2))
    monkeypatch.setattr(
        Study, "rows", lambda self, name, *, lang="", domain="", subdomain="": few(f"{name} {lang}{subdomain}")
    )
    return Study(tmp_path, tmp_path / "work", seeds=1, smallest=True, say=lambda line: None)


def makes_squares(study: Study) -> Callable[[int], dict[str, int]]:
    return lambda one: study.cell({"study": "squares", "of": one}, lambda: {"square": one * one, "pid": os.getpid()})


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_cells_that_the_study_then_reads(tmp_path: Path, workers: int) -> None:
    study = Study(tmp_path, tmp_path / "work", workers=workers)
    found = {one: makes_squares(study)(one) for one in study.each([2, 3, 4], makes_squares)}
    assert {one: record["square"] for one, record in found.items()} == {2: 4, 3: 9, 4: 16}
    assert (os.getpid() in {record["pid"] for record in found.values()}) == (workers == 1)


def test_a_sequence_goes_through_its_stages_and_is_found_again(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    order = ("cards", "topics", "transfers")
    found = continual.walk(study, order, "osf", 1)
    assert [set(stage) for stage in found["scores"]] == [
        {*order, "known"}, {"cards", "known"}, {"cards", "topics", "known"}, {*order, "known"}
    ]  # fmt: skip
    assert len(list((study.work / "continual").iterdir())) == 3
    monkeypatch.setattr(continual, "fit", lambda *given, **named: pytest.fail("trained again"))
    assert continual.walk(study, order, "osf", 1) == found


def test_a_cell_of_another_machine_is_not_made_again(tmp_path: Path) -> None:
    shared = tmp_path / "cells.jsonl"
    here = Study(tmp_path, tmp_path / "here", shared=shared_cells(shared))
    table = {"study": "poisoning", "base": "ab", "seed": 1}
    here.cell(table, lambda: {"loss": 0.25})
    here.cell({"alone": "cd"}, lambda: {"results": []})
    share_cells(here.work, shared)
    share_cells(here.work, shared)
    assert [one["of"] for one in shared_cells(shared).values()] == [table]
    there = Study(tmp_path, tmp_path / "there", shared=shared_cells(shared))
    assert there.cell(table, lambda: pytest.fail("made again")) == {"loss": 0.25}
    assert there.cell({**table, "base": "other"}, lambda: {"loss": 0.5}) == {"loss": 0.5}


def test_replay_puts_earlier_domains_beside_the_new_one(study: Study) -> None:
    alone = continual.material(study, ["topics"], [], seed=1)
    beside = continual.material(study, ["topics"], ["cards"], seed=1)
    cards = {row.input for row in continual.rows_of(study, "cards")[0]}
    assert len(alone) == len(beside) == 12
    assert sum(example.row.input in cards for example in beside) == 3
    assert {example.path for example in beside} == {continual.PATH}


def test_forgetting_is_counted_from_the_best_and_bwt_from_the_first() -> None:
    one: dict[str, Any] = {
        "order": ["a", "b", "c"],
        "seconds": [1.0, 2.0, 3.0],
        "scores": [
            {"a": 0.1, "b": 0.1, "c": 0.1, "known": 0.9},
            {"a": 0.6, "known": 0.8},
            {"a": 0.8, "b": 0.5, "known": 0.7},
            {"a": 0.4, "b": 0.5, "c": 0.9, "known": 0.6},
        ],
    }
    found = {name: value["mean"] for name, value in continual.summary([one]).items()}
    assert found == pytest.approx(
        {"accuracy": 0.6, "first_domain": 0.4, "known": 0.6, "bwt": -0.1, "forgetting": 0.2, "seconds": 6.0}
    )


def test_a_graft_is_taught_in_both_kinds_of_labels(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    base = BUNDLED / "model"
    monkeypatch.setattr(grafts, "bases", lambda study, direction: (base, base))
    hard, soft = (grafts.lesson(study, grafts.DIRECTIONS[0], "cards", labels, 1) for labels in ("hard", "top-8"))
    assert soft["bytes"] > 2 * hard["bytes"]
    assert hard["adapter_bytes"] == soft["adapter_bytes"] > 0
    assert {"before", "student", "teacher", "agreement", "known", "known_before", "seconds"} <= hard.keys()


def test_intervals_and_bars(tmp_path: Path) -> None:
    assert interval([0.5]) == {"mean": 0.5, "within": 0.0, "count": 1}
    found = interval([0.4, 0.6])
    assert found["mean"] == 0.5
    assert found["within"] == pytest.approx(12.71 * 0.1, rel=1e-3)
    files = [tmp_path / "one.svg", tmp_path / "other.svg"]
    for file in files:
        bars({"plain": [found]}, ["accuracy"], "title", file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert b"plain" in files[0].read_bytes()


def test_levels_keep_what_they_have_of_the_leafs_gain() -> None:
    up = [{"path": path, "leaf_rows": right} for path, right in (("en/a/b", 0.8), ("en/a", 0.7), ("en", 0.5))]
    cell: dict[str, Any] = {"before": 0.3, "up": up}
    assert [levels.part_kept(cell, at) for at in range(3)] == pytest.approx([1.0, 0.8, 0.4])
    assert levels.part_kept({"before": 0.9, "up": up}, 0) == 0.0
