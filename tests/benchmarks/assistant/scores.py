"""How near predicted slots are to annotated ones: counts for each dialogue, and figures with bootstrap intervals."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from recommender.constraints import Constraints

SLOTS: Final = tuple(Constraints.model_fields)
MEMORY_TOLERANCE: Final = 0.05
RESAMPLES: Final = 2_000
MESSAGE_LANGUAGES: Final = (
    *("bengali", "bengali-romanised", "chinese", "french", "german", "polish", "portuguese", "spanish"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One dialogue: its tags and message language, and for each slot whether it was found, invented or missed."""

    tags: tuple[str, ...]
    found: frozenset[str]
    invented: frozenset[str]
    missed: frozenset[str]

    @property
    def whole(self) -> bool:
        """Whether every slot is as annotated."""
        return not self.invented and not self.missed

    @property
    def language(self) -> str:
        """The language of the messages."""
        return next((tag for tag in self.tags if tag in MESSAGE_LANGUAGES), "english")


def compare(predicted: Mapping[str, Any], gold: Mapping[str, Any], tags: Sequence[str]) -> Outcome:
    """The outcome of one dialogue; a wrong value is both invented and missed."""
    wrong = {slot for slot in SLOTS if not same(slot, predicted[slot], gold[slot])}
    return Outcome(
        tuple(tags),
        found=frozenset(slot for slot in SLOTS if slot not in wrong and gold[slot] is not None),
        invented=frozenset(slot for slot in wrong if predicted[slot] is not None),
        missed=frozenset(slot for slot in wrong if gold[slot] is not None),
    )


def same(slot: str, predicted: Any, gold: Any) -> bool:
    """Whether two values of a slot are equal by the rules of the data: sets of languages, memory within 5 %."""
    if predicted is None or gold is None:
        return predicted is gold
    if slot == "languages":
        return set(predicted) == set(gold)
    if slot == "memory_gb":
        return bool(abs(predicted - gold) <= MEMORY_TOLERANCE * gold)
    return bool(predicted == gold)


def slot_f1(outcomes: Sequence[Outcome]) -> float:
    """Micro F1 over all slots that are set in the prediction or the annotation; 1 where none is."""
    found = sum(len(one.found) for one in outcomes)
    wrong = sum(len(one.invented) + len(one.missed) for one in outcomes)
    return 2 * found / (2 * found + wrong) if found + wrong else 1.0


def joint_accuracy(outcomes: Sequence[Outcome]) -> float:
    """The share of dialogues of which every slot is right."""
    return sum(one.whole for one in outcomes) / len(outcomes)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its 95 % interval over resampled dialogues."""

    value: float
    low: float
    high: float


def with_interval(figure: Callable[[Sequence[Outcome]], float], outcomes: Sequence[Outcome], seed: int = 1) -> Figure:
    """A figure of dialogues with its percentile bootstrap interval; dialogues are drawn whole."""
    draw = random.Random(seed)
    values = sorted(figure(draw.choices(outcomes, k=len(outcomes))) for _ in range(RESAMPLES))
    return Figure(figure(outcomes), values[int(0.025 * RESAMPLES)], values[int(0.975 * RESAMPLES) - 1])


@dataclass
class Slot:
    """Counts of one slot."""

    found: int = 0
    invented: int = 0
    missed: int = 0

    def as_data(self) -> dict[str, float | int | None]:
        """With precision and recall; None where there is nothing to divide by."""
        said, due = self.found + self.invented, self.found + self.missed
        return {
            "precision": self.found / said if said else None,
            "recall": self.found / due if due else None,
            "annotated": due,
            "invented": self.invented,
            "missed": self.missed,
        }


@dataclass
class Report:
    """Everything that is told of one parser on one set."""

    outcomes: list[Outcome] = field(default_factory=list)

    def as_data(self) -> dict[str, Any]:
        """Both figures with intervals, every slot, every message language and every tag."""
        languages = sorted({one.language for one in self.outcomes})
        tags = sorted({tag for one in self.outcomes for tag in one.tags} - set(MESSAGE_LANGUAGES))
        return {
            **self._figures(),
            "slots": {slot: self._slot(slot).as_data() for slot in SLOTS},
            "message_languages": self._groups(languages, lambda one: [one.language]),
            "tags": self._groups(tags, lambda one: one.tags),
        }

    def _figures(self) -> dict[str, Any]:
        figures = {"slot_f1": slot_f1, "joint_accuracy": joint_accuracy}
        measured = {name: with_interval(figure, self.outcomes) for name, figure in figures.items()}
        said = {name: {"value": one.value, "low": one.low, "high": one.high} for name, one in measured.items()}
        return {"dialogues": len(self.outcomes), **said}

    def _slot(self, slot: str) -> Slot:
        return Slot(
            sum(slot in one.found for one in self.outcomes),
            sum(slot in one.invented for one in self.outcomes),
            sum(slot in one.missed for one in self.outcomes),
        )

    def _groups(self, names: Sequence[str], of: Callable[[Outcome], Sequence[str]]) -> dict[str, Any]:
        groups = {name: [one for one in self.outcomes if name in of(one)] for name in names}
        return {
            name: {"dialogues": len(group), "slot_f1": slot_f1(group), "joint_accuracy": joint_accuracy(group)}
            for name, group in groups.items()
        }
