from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from registry.errors import BadData
from simulations.scale.conditions import Conditions
from simulations.scale.costs import read_costs
from tests.simulations.scale.steps import COSTS


def test_the_costs_that_come_with_it_can_be_read() -> None:
    assert read_costs().check_s > 0


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[]", "costs"),
        ("{}", "costs"),
        (json.dumps({"costs": COSTS.model_dump() | {"check_s": -1}}), "check_s: Input should be greater"),
        (json.dumps({"costs": COSTS.model_dump() | {"unheard_s": 1}}), "unheard_s: Extra inputs"),
    ],
)
def test_a_file_without_costs_says_what_is_wrong(content: str, why: str, tmp_path: Path) -> None:
    (file := tmp_path / "costs.json").write_text(content)
    with pytest.raises(BadData, match=why) as raised:
        read_costs(file)
    assert "python -m tests.benchmarks.scale" in raised.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="is no file of costs"):
        read_costs(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"policy": "best"}, "'best' is not known"),
        ({"policy": "drift"}, "'drift' needs trained adapters"),
        ({"failing": 1.0}, "1.0 of all contacts fail"),
        ({"failing": -0.1}, "of all contacts fail"),
        ({"every": 0}, "too small"),
        ({"pending": 0}, "too small"),
        ({"poll_s": 0.0}, "not positive"),
        ({"window_s": -1.0}, "not positive"),
    ],
)
def test_circumstances_that_cannot_be(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(BadData, match=why):
        Conditions(**wrong)
