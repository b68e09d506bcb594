"""Contenders timed in turn, and what a list of figures comes to. What is timed is left to each benchmark.

Rounds are interleaved: every contender runs once a round, each round begins with another one. A machine that slows down
for a minute then slows all of them, and a ratio taken within a round stays fair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: rounds (None: a benchmark's own number), and whether its smallest size is enough."""

    rounds: int | None = None
    smallest: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure over all rounds; `iqr` is the distance between the quartiles, in the same unit."""

    unit: str
    median: float
    iqr: float
    rounds: list[float]

    @classmethod
    def of(cls, unit: str, rounds: Sequence[float]) -> Figure:
        """The figure of one value a round."""
        low, middle, high = (float(value) for value in np.percentile(rounds, [25, 50, 75]))
        return cls(unit, middle, high - low, [float(value) for value in rounds])


@dataclass(frozen=True, slots=True)
class Bound:
    """What the median of a figure has to keep."""

    figure: str
    least: float | None = None
    most: float | None = None

    def holds(self, figures: Mapping[str, Figure]) -> bool:
        """Whether it is kept."""
        median = figures[self.figure].median
        return (self.least is None or median >= self.least) and (self.most is None or median <= self.most)


@dataclass(frozen=True, slots=True)
class Result:
    """What one benchmark found; `setting` says of what, in numbers."""

    setting: dict[str, Any]
    figures: dict[str, Figure]
    bounds: list[Bound] = field(default_factory=list)

    def broken(self) -> list[Bound]:
        """The bounds that were not kept."""
        return [bound for bound in self.bounds if not bound.holds(self.figures)]

    def as_data(self) -> dict[str, Any]:
        """As it stands in the file of results."""
        bounds = [{**asdict(bound), "held": bound.holds(self.figures)} for bound in self.bounds]
        return {
            "setting": self.setting,
            "figures": {name: asdict(figure) for name, figure in self.figures.items()},
            "bounds": bounds,
        }


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def interleaved(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run every contender once a round, beginning with another one each time; what each returned, by round."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            found[name].append(contenders[name]())
    return found


def rates(unit: str, amount: float, times_s: Sequence[float]) -> Figure:
    """An amount of work by the seconds that it took."""
    return Figure.of(unit, [amount / time_s for time_s in times_s])


def milliseconds(times_s: Sequence[float]) -> Figure:
    """Seconds, shown in milliseconds."""
    return Figure.of("ms", [1000 * time_s for time_s in times_s])


def times_as_fast(ours_s: Sequence[float], theirs_s: Sequence[float]) -> Figure:
    """How many times as fast we are as a peer: above 1 is faster. Taken within each round."""
    return Figure.of("x", [theirs / ours for ours, theirs in zip(ours_s, theirs_s, strict=True)])
