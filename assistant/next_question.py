"""Which question to ask next: the one whose answer is expected to save most regret about the first answer.

If the need turns out to be another, the model that would be recommended now costs points against the best one then.
A question is worth these points, times how probable each answer is. One that changes nothing is worth nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from assistant.questions import Question, questions
from recommender.advisor import Advisor
from recommender.constraints import Constraints

STOP_POINTS: Final = 0.5  # below it no question is asked: half a point of quality is less than anybody notices
MOST_QUESTIONS: Final = 6


@dataclass(frozen=True, slots=True)
class Worth:
    """A question and the points that its answer is expected to save."""

    question: Question
    points: float


def worths(need: Constraints, advisor: Advisor, asked: Collection[str]) -> list[Worth]:
    """The questions that can still be asked, those that save most first; of equals in the order of the table."""
    first = advisor.standing(need).best
    if first < 0:
        return []
    still = [one for one in questions() if one.name not in asked and one.open(need)]
    found = [Worth(one, sum(p * advisor.regret(first, then) for p, then in one.outcomes(need))) for one in still]
    return sorted(found, key=lambda one: -one.points)


def next_question(need: Constraints, advisor: Advisor, asked: Collection[str]) -> Question | None:
    """The question to ask, None where no answer is expected to be worth `STOP_POINTS`, or enough was asked."""
    if len(asked) >= MOST_QUESTIONS:
        return None
    best = next(iter(worths(need, advisor, asked)), None)
    return best.question if best is not None and best.points >= STOP_POINTS else None
