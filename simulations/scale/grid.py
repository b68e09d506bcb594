"""The cells that `node simulate scale --grid` plays, their file, and the pictures of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from registry.errors import BadData
from registry.trust.files import write_whole
from simulations.scale.conditions import Conditions
from simulations.scale.costs import Costs
from simulations.scale.shape import Shape
from simulations.scale.study import Cell, play

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
FAN_OUTS: Final = (4, 16, 64, 256)
FAILING: Final = (0.0, 0.05, 0.2)
USUAL: Final = 16  # children of a node where something else is compared
MIDDLE: Final = 100_000  # nodes where something else is compared


def cells(usual: Conditions, seed: int, largest: int) -> list[Cell]:
    """By size, by fan-out, by what fails, with and without caching; a parent merges when half of its children wait."""

    def cell(nodes: int, fan_out: int, **changes: Any) -> Cell:
        return Cell(Shape(nodes, fan_out), replace(usual, every=max(1, fan_out // 2), **changes), seed)

    middle = min(MIDDLE, largest)
    found = [cell(nodes, USUAL) for nodes in SIZES if nodes <= largest]
    found += [cell(middle, fan_out) for fan_out in FAN_OUTS]
    found += [cell(middle, USUAL, failing=failing) for failing in FAILING]
    found += [cell(middle, fan_out, caching=True) for fan_out in FAN_OUTS]
    return list(dict.fromkeys(found))


def played(
    wanted: list[Cell], costs: Costs, file: Path, about: dict[str, Any], on_played: Callable[[int, str, int], None]
) -> list[dict[str, Any]]:
    """The figures of all cells; what the file has of the same costs is not played again, and each goes into it at once.

    Raises BadData for a file that holds something else.
    """
    found = _read(file, costs)
    for number, cell in enumerate(wanted):
        key = repr(cell)
        if key not in found:
            found[key] = play(cell, costs, partial(on_played, number))
            whole = {**about, "costs": costs.model_dump(), "cells": found}
            write_whole(file, json.dumps(whole, indent=1).encode() + b"\n")
    return [found[repr(cell)] for cell in wanted]


def _read(file: Path, costs: Costs) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return dict(known["cells"]) if known["costs"] == costs.model_dump() else {}
    except (ValueError, KeyError, TypeError) as error:
        raise BadData(f"{file} is not a file of this study", "name another with --out") from error
