"""What the recommender answers: models with reasons, or why there is none and what would help."""

from __future__ import annotations

from dataclasses import dataclass

from recommender.candidate import Candidate
from recommender.hardware import Machine


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One answer. Memory is the estimate with its margin; None where it is not known, or the model is rented.

    `basis` is the measurement that its quality rests on, in words, where it is one on a scale of its own, else "".
    `met`, `missed` and `unknown` are rules and wishes in words; `against_first` says how it differs from the first.
    """

    candidate: Candidate
    form: str
    memory_gb: float | None
    training_gb: float | None
    tokens_per_s: float | None
    quality: float | None
    low: float | None
    high: float | None
    grade: str
    basis: str
    met: tuple[str, ...]
    missed: tuple[str, ...]
    unknown: tuple[str, ...]
    on_front: bool
    against_first: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a rule cost: models that do not meet it, those that only it kept out, those of which nobody knows."""

    rule: str
    models: int
    alone: int
    unknown: int


@dataclass(frozen=True, slots=True)
class WayOut:
    """Rules that can be given up together, what it takes at least, and what it buys."""

    slots: tuple[str, ...]
    takes: tuple[str, ...]
    models: int
    nearest: str
    best: str
    best_quality: float | None
    best_takes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recommendations:
    """The answers, best first, and why these. `conflicts` and `ways_out` are filled where there is no answer."""

    answers: tuple[Recommendation, ...]
    considered: int
    survivors: int
    machine: Machine
    why: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    conflicts: tuple[tuple[str, ...], ...]
    ways_out: tuple[WayOut, ...]
