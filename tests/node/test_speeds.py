"""What this machine was measured at corrects what is estimated for it, and for no other machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from node.context import Node
from node.recommending import Shelf, stated
from node.speeds import LEAST_TOKENS, finetuned, machine_id, note_answer
from recommender.answers import Recommendations
from recommender.hardware import Machine, described_machine, this_machine
from registry.store import select
from registry.tables import SpeedRow
from tests.world import BASE_FILES, make_node, put_base, put_release

NOW = datetime(2026, 11, 21, tzinfo=UTC)
SLOW_GB_S = 0.001  # so that reading the toy's 0.5 MB takes most of a token's time


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = make_node(tmp_path / "home", "en")
    large = save({"model.norm.weight": np.zeros(3_000_000, np.float32)})
    put_release(node, "en", put_base(node, BASE_FILES | {"model.safetensors": large}))
    yield node
    node.close()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = replace(this_machine(), name="a slow one", bandwidth_gb_s=SLOW_GB_S)
    monkeypatch.setattr("node.speeds.this_machine", lambda: machine)
    return machine


def recommended(node: Node, machine: Machine) -> Recommendations:
    return Shelf(node).recommend(stated({"languages": ("en",)}), machine, 1, NOW, tree_only=True)


def speed(found: Recommendations) -> float:
    assert found.answers[0].tokens_per_s is not None
    return found.answers[0].tokens_per_s


def test_measured_answers_correct_the_estimate_of_this_machine_alone(node: Node, slow: Machine) -> None:
    other = described_machine(device="cpu", memory_gb=16)
    before, elsewhere = speed(recommended(node, slow)), speed(recommended(node, other))
    for _ in range(3):
        note_answer(node, "en", 100, 100 / (2 * before), NOW)
    found = recommended(node, slow)
    assert speed(found) == pytest.approx(2 * before, rel=0.01)
    assert "speeds are 2.00 times the estimate, as those of 3 answers measured here" in found.why
    assert speed(recommended(node, other)) == elsewhere
    assert not any("measured here" in line for line in recommended(node, other).why if "speeds" in line)


def test_what_says_nothing_of_larger_models_does_not_count(
    node: Node, slow: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_answer(node, "en", LEAST_TOKENS - 1, 1.0, NOW)
    with node.store.transaction() as session:
        assert session.scalars(select(SpeedRow)).all() == []
        row = SpeedRow(kind="generate", model="en", tokens=100, seconds=1.0, machine="another", created=NOW)
        session.add(row)
    before = speed(recommended(node, slow))
    note_answer(node, "en/gone", 100, 1.0, NOW)
    assert speed(recommended(node, slow)) == before
    note_answer(node, "en", 100, 100 / (3 * before), NOW)
    assert speed(recommended(node, slow)) == pytest.approx(3 * before, rel=0.01)
    fast = replace(slow, bandwidth_gb_s=1_000.0)  # the weights are read in no time
    monkeypatch.setattr("node.speeds.this_machine", lambda: fast)
    assert not any("speeds" in line for line in recommended(node, fast).why)


def test_a_fine_tune_s_speed_and_memory_are_kept() -> None:
    row = finetuned("en", 1_000, 250.0, 1 << 30, NOW)
    assert row is not None
    assert (row.seconds, row.estimated_bytes, row.machine) == (4.0, 1 << 30, machine_id())
    assert row.peak_bytes is not None and row.peak_bytes > 1 << 20
    assert finetuned("en", 0, 0.0, 1, NOW) is None  # what an earlier process trained
