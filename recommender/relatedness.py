"""How near languages and tasks are to each other: what a score in one says of a score in another.

Both are trees. Two languages are the nearer, the more of their family they share (the branches are those of the usual
genealogical classification, as in Glottolog), and the more alike the amount of text that is written in them (articles
of their Wikipedia about 2024, to the order of magnitude): a model that is weak in Lithuanian is weak in Albanian too.
Two tasks are near where the answer has the same form: to choose one of several answers is one skill, whatever is asked.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

TABLE: Final = Path(__file__).parent / "data" / "languages.csv"
FAMILY: Final = (0.0, 0.2, 0.5, 0.75, 0.85)  # by the number of shared branches
RESOURCES: Final = 0.4  # share of the amount of text in the relatedness of two languages
DECADES: Final = 0.8  # of articles: how far apart two languages may be and still be alike

# Task -> the form of its answer. Names are those of `constraints.Task`, of EuroEval and of MTEB's task types.
FORMS: Final[dict[str, str]] = {
    "knowledge": "choice",
    "common-sense-reasoning": "choice",
    "question-answering": "choice",
    "sentiment-classification": "label",
    "linguistic-acceptability": "label",
    "text-classification": "label",
    "named-entity-recognition": "entities",
    "token-classification": "entities",
    "reading-comprehension": "span",
    "summarization": "text",
    "simplification": "text",
    "translation": "text",
    "text-generation": "text",
}
SAME_FORM: Final = 0.8


def languages_related(one: Sequence[tuple[str, ...]], other: Sequence[tuple[str, ...]]) -> Matrix:
    """Relatedness 0 to 1 of sets of languages (ISO 639 codes), shape (one, other); 0 where a set is empty.

    A set is the sum of its languages in the space that `_related` spans, and two sets are compared by their angle: so
    the matrix is a covariance, whatever the sets.
    """
    codes = sorted({code for languages in (*one, *other) for code in languages})
    if not codes:
        return np.zeros((len(one), len(other)))
    between = np.array([[_related(left, right) for right in codes] for left in codes])
    left, right = _members(one, codes), _members(other, codes)
    lengths = [np.sqrt(np.einsum("ij,jk,ik->i", sets, between, sets)) for sets in (left, right)]
    product: Matrix = left @ between @ right.T
    return product / np.maximum(np.outer(lengths[0], lengths[1]), 1e-12)


def tasks_related(one: Sequence[str], other: Sequence[str], same_form: float = SAME_FORM) -> Matrix:
    """Relatedness 0 to 1 of tasks: 1 for the same, `same_form` where the answer has the same form."""
    return np.array([[_tasks_related(left, right, same_form) for right in other] for left in one], dtype=np.float64)


def overlap(one: Sequence[tuple[str, ...]], other: Sequence[tuple[str, ...]]) -> Matrix:
    """Share of common members of two sets (Jaccard), shape (one, other); 0 where both are empty."""
    return np.array(
        [[len({*left} & {*right}) / max(1, len({*left} | {*right})) for right in other] for left in one],
        dtype=np.float64,
    )


def _members(sets: Sequence[tuple[str, ...]], codes: list[str]) -> Matrix:
    place = {code: position for position, code in enumerate(codes)}
    members = np.zeros((len(sets), len(codes)))
    for row, languages in enumerate(sets):
        for code in languages:
            members[row, place[code]] = 1
    return members


@lru_cache(maxsize=1 << 16)
def _related(one: str, other: str) -> float:
    if one == other:
        return 1.0
    table = _table()
    if one not in table or other not in table:
        return 0.0
    (family, articles), (other_family, other_articles) = table[one], table[other]
    shared = 0
    for left, right in zip(family, other_family, strict=False):
        if left != right:
            break
        shared += 1
    near = math.exp(-0.5 * (math.log10(articles / other_articles) / DECADES) ** 2)
    return (1 - RESOURCES) * FAMILY[min(shared, len(FAMILY) - 1)] + RESOURCES * near


def _tasks_related(one: str, other: str, same_form: float) -> float:
    if one == other:
        return 1.0
    form = FORMS.get(one)
    return same_form if form is not None and form == FORMS.get(other) else 0.0


@lru_cache(maxsize=1)
def _table() -> dict[str, tuple[tuple[str, ...], float]]:
    with TABLE.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {row["code"]: (tuple(row["family"].split("/")), float(row["articles"])) for row in rows}
