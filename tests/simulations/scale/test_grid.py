from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry.errors import BadData
from simulations.scale.conditions import Conditions
from simulations.scale.grid import cells, played
from simulations.scale.pictures import draw
from tests.simulations.scale.steps import COSTS

USUAL = Conditions(window_s=60.0)


def test_what_was_played_is_not_played_again(tmp_path: Path) -> None:
    """A run that is stopped goes on with the trees that are missing; other costs are another study."""
    wanted, file, at = cells(USUAL, 1, 1_000), tmp_path / "scale.json", list[int]()

    def stop_at_third(number: int, what: str, events: int) -> None:
        at.append(number)

    first = played(wanted[:3], COSTS, file, {}, stop_at_third)
    whole = played(wanted, COSTS, file, {"date": "today"}, stop_at_third)
    assert whole[:3] == first
    assert set(json.loads(file.read_text())) == {"date", "costs", "cells"}
    assert played(wanted, COSTS, file, {}, stop_at_third) == whole
    other = played(wanted[:1], COSTS.model_copy(update={"check_s": 50.0}), file, {}, stop_at_third)
    assert other[0]["up"] != whole[0]["up"]


def test_a_file_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (file := tmp_path / "scale.json").write_text('{"mine": 1}')
    with pytest.raises(BadData, match="is not a file of this study"):
        played(cells(USUAL, 1, 1_000), COSTS, file, {}, lambda *played: None)
    assert file.read_text() == '{"mine": 1}'


def test_the_picture_is_the_same_for_the_same_figures(tmp_path: Path) -> None:
    found = played(cells(USUAL, 1, 1_000), COSTS, tmp_path / "scale.json", {}, lambda *played: None)
    assert draw(found) == draw(found)
    assert "share of contacts that fail" in draw(found)
