"""Looking for a candidate that the gate lets pass, before any update is blamed (G5): bounded.

A candidate that loses old knowledge went too far: between the old adapter and the new one, own + λ·(new - own), there
is often one that loses less and still has gained enough. λ is found by bisection, which costs no training. Where none
passes, the updates are merged by other rules and consolidated from there, a training each. Of those that pass, the one
that kept most of the gains is taken.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from registry.documents import CheckResult
from sync.candidate import Candidate
from sync.consolidate import Merged
from sync.delta import Delta, recompress, scaled, stack
from sync.judging import GAIN


@dataclass(frozen=True, slots=True)
class Try:
    """One judged adapter: how far it goes from the old one to the new (λ), what the gate said, what it cost.

    `start` is the rule that merged what consolidation began with, `held_right` as in `sync.judging.Judged`.
    """

    start: str
    part: float
    merged: Merged
    checks: list[CheckResult]
    held_right: list[list[bool]]
    seconds: float

    @property
    def lost(self) -> list[CheckResult]:
        """The checks on old knowledge that failed."""
        return [check for check in self.checks if not check.passed and not check.name.startswith(GAIN)]

    @property
    def passed(self) -> bool:
        """Whether the gate lets it pass."""
        return all(check.passed for check in self.checks)

    @property
    def gain(self) -> float:
        """The shares of their gains that it kept, added up over the children."""
        return sum(check.value or 0.0 for check in self.checks if check.name.startswith(GAIN))


def search(candidate: Candidate, most: int) -> list[Try]:
    """At most `most` tries, the best first: one that passes if any does, else the first, which goes all the way."""
    first, *others = candidate.starts()
    others = others[: most - 1]
    tries = _towards(candidate, first, most - len(others))
    for start in others:
        if not any(one.passed for one in tries):
            tries += _towards(candidate, start, 1)
    return sorted(tries, key=lambda one: (not one.passed, -one.gain if one.passed else -one.part))


def _towards(candidate: Candidate, start: str, most: int) -> list[Try]:
    """Consolidate one merge; where it loses old knowledge, find by bisection how far one can go towards it."""
    started = time.monotonic()
    merged, delta = candidate.train(start)
    tries = [_judged(candidate, start, 1.0, replace(merged, delta=delta), started)]
    low, high = 0.0, 1.0
    while len(tries) < most and (tries[0].lost or len(tries) > 1):
        part = (low + high) / 2
        started = time.monotonic()
        nearer, error = between(candidate.own_delta(), delta, part, candidate.plan.rank_budget)
        tries.append(
            _judged(candidate, start, part, replace(merged, delta=nearer, error=merged.error + error), started)
        )
        if tries[-1].lost:
            high = part
        else:
            low = part
    return tries


def between(own: Delta | None, new: Delta, part: float, rank: int) -> tuple[Delta, float]:
    """The adapter own + part·(new - own) within the rank budget, and the relative error of its recompression."""
    parts = [scaled(own, 1 - part)] if own else []
    return recompress(stack([*parts, scaled(new, part)]), rank)


def _judged(candidate: Candidate, start: str, part: float, merged: Merged, started: float) -> Try:
    judged = candidate.judge(merged.delta)
    return Try(start, part, merged, judged.checks, judged.held_right, time.monotonic() - started)
