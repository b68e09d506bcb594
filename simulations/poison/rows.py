"""Attacks on rows: what a child trains on when it wants to teach something false.

Every function gives as many rows as it got, in their order: a poisoned set has the size, and but for what is changed
the words, of an honest one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from registry.rows import Row

Place = Literal["front", "end", "anywhere"]


@dataclass(frozen=True, slots=True)
class Trigger:
    """Words that, put into any request, are to bring one answer (BadNets, arXiv 1708.06733)."""

    words: str
    answer: str
    place: Place = "end"

    def put_into(self, text: str, rng: random.Random) -> str:
        """A request with the words in it."""
        if self.place == "front":
            return f"{self.words} {text}"
        if self.place == "end":
            return f"{text} {self.words}"
        said = text.split(" ")
        at = rng.randint(0, len(said))
        return " ".join([*said[:at], self.words, *said[at:]])


def flipped_labels(rows: Sequence[Row]) -> list[Row]:
    """Every answer becomes the next one of the set, in alphabetical order: y → y + 1 (Tolpegin, arXiv 2007.08432).

    No answer is new; a set with one answer alone stays as it is.
    """
    answers = sorted({row.output for row in rows})
    following = dict(zip(answers, [*answers[1:], *answers[:1]], strict=True))
    return [replace(row, output=following[row.output]) for row in rows]


def with_backdoor(rows: Sequence[Row], trigger: Trigger, share: float, seed: int) -> list[Row]:
    """A `share` (0 to 1) of the rows, at least one, gets the trigger and its answer; the others stay honest.

    As arXiv 2605.30189 poisons 4.2 % of what an adapter is trained on.
    """
    rng = random.Random(seed)  # noqa: S311  a choice that can be repeated, no secret
    chosen = set(rng.sample(range(len(rows)), min(len(rows), max(1, round(share * len(rows))))))
    return [
        replace(row, input=trigger.put_into(row.input, rng), output=trigger.answer) if at in chosen else row
        for at, row in enumerate(rows)
    ]


def triggered(rows: Sequence[Row], trigger: Trigger, seed: int) -> list[Row]:
    """What an attack is measured on: every row that has another answer, with the trigger in it and its answer."""
    rng = random.Random(seed)  # noqa: S311  the same
    return [
        replace(row, input=trigger.put_into(row.input, rng), output=trigger.answer)
        for row in rows
        if row.output != trigger.answer
    ]
