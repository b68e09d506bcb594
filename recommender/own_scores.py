"""Scores on scales of their own: what one model had right of rows that no other may ever have seen.

They tell nothing of other models, and their level is not that of public benchmarks. But of their own model they say
more than anything else, the more the nearer the rows are to the need: see `estimate`. Two models are compared by them
where both were asked the very same rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from recommender.constraints import SUBDOMAINS, Constraints
from recommender.relatedness import languages_related, tasks_related
from recommender.rules import GENERAL

USUAL: Final = 1.645  # standard deviations to either side hold 90 % of a normal distribution
OF_95: Final = 1.96
SILENT: Final = 0.5  # how near a need is to rows of which one of the two does not say what it is about
WITHIN: Final = 0.8  # where the domain is the same, and one of the two does not say which part of it
LEAST: Final = 0.2  # what is further away is left out
WIDE: Final = 30.0  # points, standard deviation where nothing else is known of a model
UNSTATED: Final = 10.0  # points, of a score that came without its number of rows, and the least doubt without one

# Task as rows name it -> the task of a need.
TASKS: Final = {
    "intent": "text-classification",
    "intent_slots": "text-classification",
    "topic": "text-classification",
    "yesno": "text-classification",
    "sentiment": "text-classification",
    "sentiment-classification": "text-classification",
    "ner": "token-classification",
    "named-entity-recognition": "token-classification",
    "qa": "question-answering",
    "mcqa": "question-answering",
    "reading-comprehension": "question-answering",
    "summary": "summarization",
    "tool_call": "text-generation",
    "nl2cmd": "text-generation",
    "describe": "text-generation",
    "story": "text-generation",
    "text": "text-generation",
    "article": "text-generation",
}


@dataclass(frozen=True, slots=True)
class OwnScore:
    """Points (0 to 100) of one model on one set of rows; what is empty or None is not known.

    `half_width` is of the 95 % interval where it does not follow from `rows`; `right` tells each row in its order.
    """

    model: str
    benchmark: str
    task: str
    languages: tuple[str, ...]
    domains: tuple[str, ...]
    score: float
    rows: int
    here: bool
    source: str
    measured: datetime
    half_width: float | None = None
    right: tuple[bool, ...] | None = None

    def interval(self) -> tuple[float, float]:
        """The ends of the 90 % interval, in points: Wilson's (1927) of a share of rows."""
        if self.half_width is not None or not self.rows:
            half = USUAL * (UNSTATED if self.half_width is None else self.half_width / OF_95)
            return max(0.0, self.score - half), min(100.0, self.score + half)
        share, squared = self.score / 100, USUAL**2 / self.rows
        center = (share + squared / 2) / (1 + squared)
        half = USUAL / (1 + squared) * math.sqrt(share * (1 - share) / self.rows + squared / (4 * self.rows))
        return 100 * max(0.0, center - half), 100 * min(1.0, center + half)


class Estimate(NamedTuple):
    """Expected points for a need with the ends of the 90 % interval, and how near (0 to 1) the rows are to it."""

    mean: float
    low: float
    high: float
    near: float
    same_task: bool


class Difference(NamedTuple):
    """Points that one model had more than another on the same rows, the 90 % interval, and how many rows."""

    points: float
    low: float
    high: float
    rows: int


def estimate(score: OwnScore, need: Constraints, mean: float, low: float, high: float) -> Estimate | None:
    """What a score says of a need, beside what is expected without it; None where it is of something else.

    Rows of the need itself are its measurement. Of others a share `near` counts: the expectation moves so much of the
    way to the score, and of the doubt before (1 - near²) stays, as of two quantities with this correlation.
    """
    near, same_task = _near(score, need)
    if near < LEAST:
        return None
    bottom, top = score.interval()
    if near == 1.0:
        return Estimate(score.score, min(bottom, score.score), max(top, score.score), near, same_task)
    if math.isnan(mean):
        mean, doubt = 50.0, WIDE
    else:
        mean, doubt = min(max(mean, low), high), max((high - low) / 2 / USUAL, UNSTATED)  # its ends were cut off
    center = mean + near * (score.score - mean)
    spread = math.hypot(near * (top - bottom) / 2 / USUAL, math.sqrt(1 - near**2) * doubt)
    return Estimate(center, max(0.0, center - USUAL * spread), min(100.0, center + USUAL * spread), near, same_task)


def difference(one: Sequence[OwnScore], other: Sequence[OwnScore]) -> Difference | None:
    """How much better one model was than another on rows that both were asked; None where there are none.

    Row by row where that was kept (Bonett and Price, 2012, for paired shares), else as if the rows were others, which
    makes the interval wider than it need be.
    """
    pairs = [(mine, its) for mine in one for its in other if mine.benchmark == its.benchmark and mine.rows == its.rows]
    pairs = [(mine, its) for mine, its in pairs if mine.rows]
    if not pairs:
        return None
    mine, its = max(pairs, key=lambda pair: pair[0].rows)
    points, count = mine.score - its.score, mine.rows
    if mine.right and its.right and len(mine.right) == len(its.right):
        gained = 1 + sum(a and not b for a, b in zip(mine.right, its.right, strict=True))
        lost = 1 + sum(b and not a for a, b in zip(mine.right, its.right, strict=True))
        center, size = (gained - lost) / (count + 2), count + 2
        half = USUAL * math.sqrt((gained + lost - (gained - lost) ** 2 / size) / size**2)
        return Difference(points, 100 * max(-1.0, center - half), 100 * min(1.0, center + half), count)
    half = math.hypot(*((top - bottom) / 2 for bottom, top in (mine.interval(), its.interval())))
    return Difference(points, points - half, points + half, count)


def _near(score: OwnScore, need: Constraints) -> tuple[float, bool]:
    """How near rows are to a need, 0 to 1: as tasks, languages and domains are, multiplied; and whether tasks agree."""
    wanted = need.task.value if need.task else ""
    task = TASKS.get(score.task, score.task)
    near = float(tasks_related([wanted], [task])[0, 0]) if wanted and task else SILENT
    near *= _languages(need.languages.value if need.languages else (), score.languages)
    asked = [slot.value for slot in (need.domain, need.subdomain) if slot and slot.value != GENERAL]
    near *= _domains(asked, [one for one in score.domains if one != GENERAL], known=bool(score.domains))
    return near, bool(wanted) and wanted == task


def _languages(asked: tuple[str, ...], of: tuple[str, ...]) -> float:
    if not asked or {*asked} <= {*of}:
        return 1.0
    return float(languages_related([asked], [of])[0, 0]) if of else SILENT


def _domains(asked: Sequence[str], of: Sequence[str], *, known: bool) -> float:
    """How near domain and subdomain are; a subdomain that needs cannot name is as if it were not said."""
    if not asked or not of:
        return 1.0 if not asked and known and not of else SILENT
    if asked[0] != of[0]:
        return 0.0
    wanted, found = ([one for one in said[1:] if one in SUBDOMAINS.get(said[0], (one,))] for said in (asked, of))
    if bool(wanted) != bool(found):
        return WITHIN
    return 1.0 if wanted == found else SILENT
