"""Why nothing was found: the smallest sets of rules that cannot be met together, and what giving some of them up buys.

Every model fails a set of rules. The smallest of these sets are the ways out: give up all of one, and a model is there.
A set of rules is in conflict when it meets every way out in at least one rule; the smallest such sets are the reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recommender.columns import Rows
from recommender.rules import Rule

MOST_SETS: Final = 64  # of each kind; more than a person reads, and a bound on the work

Slots = frozenset[str]


@dataclass(frozen=True, slots=True)
class Relaxation:
    """Rules to give up together, and the rows that then meet all others."""

    slots: Slots
    rows: Rows


def failures(rules: Sequence[Rule], count: int) -> NDArray[np.uint32]:
    """For each model the rules that it fails, as bits in the order of the rules."""
    bits = np.zeros(count, dtype=np.uint32)
    for index, rule in enumerate(rules):
        bits |= (~rule.met).astype(np.uint32) << np.uint32(index)
    return bits


def relaxations(rules: Sequence[Rule], count: int) -> list[Relaxation]:
    """The ways out, those with fewest rules and most models first. None where some model meets everything."""
    failed = failures(rules, count)
    bits_of = {_slots(rules, int(bits)): bits for bits in np.unique(failed)}
    smallest = [way for way in _minimal(bits_of) if way]
    found = [Relaxation(way, np.flatnonzero(failed == bits_of[way])) for way in smallest[:MOST_SETS]]
    return sorted(found, key=lambda way: (len(way.slots), -len(way.rows)))


def conflicts(ways_out: Iterable[Relaxation]) -> list[Slots]:
    """The smallest sets of rules that cannot be met together: the smallest that meet every way out (Berge's way)."""
    found: list[Slots] = [frozenset()]
    for way in ways_out:
        grown = {one if one & way.slots else one | {slot} for one in found for slot in way.slots}
        found = _minimal(grown)[:MOST_SETS]
    return [one for one in found if one]


def _minimal(sets: Iterable[Slots]) -> list[Slots]:
    """Those of which no other is a part, the smaller first."""
    kept: list[Slots] = []
    for one in sorted(sets, key=lambda slots: (len(slots), sorted(slots))):
        if not any(other <= one for other in kept):
            kept.append(one)
    return kept


def _slots(rules: Sequence[Rule], bits: int) -> Slots:
    return frozenset(rule.slot for index, rule in enumerate(rules) if bits >> index & 1)
