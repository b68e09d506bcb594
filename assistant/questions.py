"""The questions that can be asked, in words of use, and how usual each answer is: `data/questions.toml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from math import prod
from typing import Any

from assistant.lexicon import load
from recommender.constraints import Constraints, Stated


@dataclass(frozen=True, slots=True)
class Option:
    """One answer: how it is shown, words that mean it, the slots it fills; `also` are values usually said with it."""

    says: str
    words: tuple[str, ...]
    weight: float
    fills: Mapping[str, Any]
    also: Mapping[str, tuple[tuple[Any, float], ...]] = field(default_factory=dict)

    def outcomes(self) -> Iterator[tuple[float, Mapping[str, Any]]]:
        """What it may come to: weight, and the slots with their values."""
        if not self.also:
            yield self.weight, self.fills
        for slot, values in self.also.items():
            whole = sum(weight for _, weight in values)
            for value, weight in values:
                yield self.weight * weight / whole, {**self.fills, slot: value}


@dataclass(frozen=True, slots=True)
class Question:
    """`none` is the weight of having no answer; `unit` of a bare number as the answer, where one will do.

    Where `several` options may hold at once, each has its probability as weight, whatever the others.
    """

    name: str
    ask: str
    options: tuple[Option, ...]
    none: float
    unit: str
    listed: bool
    several: bool

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots that its answers fill."""
        return tuple(dict.fromkeys(slot for option in self.options for slot in option.fills))

    def open(self, need: Constraints) -> bool:
        """Whether nothing is known yet of what it asks for, and it makes sense to ask."""
        if self.name == "price" and (need.local_only is None or need.local_only.value):
            return False
        if self.name == "memory" and need.device is None:
            return False
        unknown = [getattr(need, slot) is None for slot in self.slots]
        return any(unknown) if self.several else all(unknown)

    def outcomes(self, need: Constraints) -> list[tuple[float, Constraints]]:
        """How the need may look after the answer, with probabilities; what is left to one is that nothing is said."""
        if self.several:
            return list(self._together(need))
        found = [outcome for option in self.options for outcome in option.outcomes()]
        whole = sum(weight for weight, _ in found) + self.none
        return [(weight / whole, filled(need, values)) for weight, values in found if weight]

    def _together(self, need: Constraints) -> Iterator[tuple[float, Constraints]]:
        """One or two of the options that still say something; more at once are too rare to count."""
        new = [option for option in self.options if any(getattr(need, slot) is None for slot in option.fills)]
        nobody = prod(1 - option.weight for option in new)
        for held in (*combinations(new, 1), *combinations(new, 2)):
            share = nobody * prod(one.weight / (1 - one.weight) for one in held)
            yield share, filled(need, together(held).fills)

    def text(self) -> str:
        """The question with its options, numbered, in English; see `voice` for other languages."""
        if not self.listed:
            return self.ask
        return "\n".join([self.ask, *(f"  {number}. {one.says}" for number, one in enumerate(self.options, start=1))])


def together(options: Sequence[Option]) -> Option:
    """Several options as one answer; of two that fill one slot the later."""
    return Option("", (), 0, {slot: value for option in options for slot, value in option.fills.items()})


def filled(need: Constraints, values: Mapping[str, Any]) -> Constraints:
    """A need with values for slots of which nothing is known yet."""
    new = {slot: Stated[Any](value=value) for slot, value in values.items() if getattr(need, slot) is None}
    return need.model_copy(update=new)


@lru_cache(maxsize=1)
def questions() -> tuple[Question, ...]:
    """The table, in its order."""
    return tuple(_question(row) for row in load("questions")["question"])


def question(name: str) -> Question:
    """The question of a name. Raises KeyError."""
    return {one.name: one for one in questions()}[name]


def _question(row: Mapping[str, Any]) -> Question:
    options = tuple(
        Option(
            says=option["says"],
            words=tuple(option["words"]),
            weight=float(option["weight"]),
            fills={slot: _value(value) for slot, value in option["set"].items()},
            also={
                slot: tuple((float(value), float(weight)) for value, weight in values)
                for slot, values in option.get("also", {}).items()
            },
        )
        for option in row["options"]
    )
    return Question(
        name=row["name"],
        ask=row["ask"],
        options=options,
        none=float(row["none"]),
        unit=row.get("unit", ""),
        listed=row.get("listed", True),
        several=row.get("several", False),
    )


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
