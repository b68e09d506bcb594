"""From a need to answers: filter by the rules, score what is left, say why; or say what stands in the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from recommender.answers import Recommendations
from recommender.constraints import Constraints
from recommender.hardware import Machine, described_machine
from recommender.index import Index
from recommender.question import Question
from recommender.rank import WISH_POINTS, Predict, most_promising
from recommender.rules import met_by_all
from registry.errors import BadData

MOST_ANSWERS: Final = 100
MOST_GB: Final = 1e9  # more than any machine; numbers of needs have no end
USUAL_GPU_GB: Final = 8.0  # of a GPU of which nobody said how much it has


def recommend(
    constraints: Constraints,
    index: Index,
    machine: Machine,
    *,
    predict: Predict,
    count: int = 5,
    factor: float = 1.0,
) -> Recommendations:
    """The models of a catalogue that meet every rule, best first.

    Args:
        constraints: the need; its hard slots are rules, the others wishes.
        index: the catalogue.
        machine: where models run, unless the need names another device or amount of memory.
        predict: expected quality of candidates for a need.
        count: how many answers, 1 to `MOST_ANSWERS`.
        factor: how much faster than estimated the machine was when it was measured.

    Raises:
        BadData: `count` is out of range.
    """
    if not 1 <= count <= MOST_ANSWERS:
        raise BadData(f"{count} answers cannot be given", f"ask for 1 to {MOST_ANSWERS}")
    asked = Question.of(constraints, index, machine_for(constraints, machine), factor)
    survivors = np.flatnonzero(met_by_all(asked.rules, len(index.columns)))
    if not len(survivors):
        return asked.nothing(predict)
    rows = most_promising(index.prior[survivors] - WISH_POINTS * asked.unmet[survivors], survivors)
    quality = predict([index.columns.candidates[row] for row in rows], constraints)
    return asked.answers(rows, quality, len(survivors), count)


def machine_for(constraints: Constraints, machine: Machine) -> Machine:
    """The machine that a need is about: the one given, with the device and the memory that were named."""
    device, memory = constraints.device, constraints.memory_gb
    named_gb = min(memory.value, MOST_GB) if memory else None
    if device is not None and device.value != machine.device:
        usual = machine.ram_gb if device.value == "cpu" else USUAL_GPU_GB
        named = described_machine(device=device.value, memory_gb=named_gb or usual)
        measured = machine.ram_gb_s if device.value == "cpu" else named.bandwidth_gb_s
        return replace(named, bandwidth_gb_s=measured)
    if memory is not None and memory.hard:
        return replace(machine, memory_gb=named_gb or machine.memory_gb)
    return machine
