"""Models found by what their cards say: a request in words against title, task and description.

Vectors are compared after the mean of their kind was taken away (all requests begin alike, and so do all cards), words
by BM25 (Robertson and Zaragoza, 2009). What each signal counts can be `learned` from requests whose card is known.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recommender.embed import embed
from recommender.evidence import Floats

Matrix = NDArray[np.float32]

SIGNALS: Final = ("whole card", "description", "task", "words")
# Of the signals, by hand: what `learned` gives on all of APIBench, (6.6, 5.3, 4.3, 0.3), finds no more.
WEIGHTS: Final = (8.0, 8.0, 4.0, 0.4)
STEPS: Final = 8
PULL: Final = 1.0  # towards zero weights, in requests
_K1, _B = 1.2, 0.75  # BM25's usual constants
_WORD: Final = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class CardText:
    """What is searched of a card: the id of its model, the task as it names it, and its description."""

    model: str
    task: str
    description: str

    @property
    def whole(self) -> str:
        """All of it as one text."""
        return f"{self.task}. {self.model}. {self.description}"


@dataclass(frozen=True, slots=True, eq=False)
class Cards:
    """Cards made ready for search: centred vectors of three views of each, and an index of words."""

    models: tuple[str, ...]
    views: tuple[Matrix, Matrix, Matrix]  # of `SIGNALS`, (n, d) each
    words: dict[str, tuple[NDArray[np.int64], Floats]]  # word -> cards with it, its weight in each

    @classmethod
    def of(cls, cards: Sequence[CardText]) -> Cards:
        """Embed and index cards."""
        texts = (
            [one.whole for one in cards],
            [f"{one.task}: {one.description}" for one in cards],
            [one.task for one in cards],
        )
        views = tuple(centred(embed(view)) for view in texts)
        return cls(tuple(one.model for one in cards), (views[0], views[1], views[2]), _indexed(texts[0]))

    def signals(self, requests: Sequence[str], mean: Matrix | None = None) -> Floats:
        """How well each card answers each request by each of `SIGNALS`, shape (requests, cards, signals).

        `mean` is the vector that is taken from the requests', that of many earlier requests; None for their own.
        """
        vectors = centred(embed(requests), mean)
        near = [vectors @ view.T for view in self.views]
        return np.stack([*near, self._by_words(requests)], axis=-1).astype(np.float64)

    def _by_words(self, requests: Sequence[str]) -> Floats:
        found = np.zeros((len(requests), len(self.models)))
        for row, request in enumerate(requests):
            for word in {*_words(request)} & self.words.keys():
                cards, weights = self.words[word]
                found[row, cards] += weights
        spread = found.std(1, keepdims=True)
        standard: Floats = (found - found.mean(1, keepdims=True)) / np.maximum(spread, 1e-9)
        return standard


def learned(signals: Floats, right: NDArray[np.int64]) -> Floats:
    """Weights of the signals under which the right card is most likely (conditional logit), by Newton's steps.

    Args:
        signals: (requests, cards, signals), as `Cards.signals` gives them.
        right: (requests,), the card that each request is about.
    """
    weights = np.zeros(signals.shape[-1])
    chosen = signals[np.arange(len(right)), right].sum(0)
    pull = np.diag(PULL * signals.reshape(-1, signals.shape[-1]).var(0))
    for _ in range(STEPS):
        points = signals @ weights
        share = np.exp(points - points.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        mean = np.matmul(share[:, None], signals)[:, 0]
        weighted = (signals * share[..., None]).reshape(-1, signals.shape[-1])
        spread = weighted.T @ signals.reshape(weighted.shape) - mean.T @ mean + pull
        weights = weights + np.linalg.solve(spread, chosen - mean.sum(0) - pull @ weights)
    return weights


def centred(vectors: Matrix, mean: Matrix | None = None) -> Matrix:
    """Unit vectors without what all of them share; a single one stays as it is."""
    if mean is None and len(vectors) < 2:
        return vectors
    rest = vectors - (vectors.mean(0) if mean is None else mean)
    unit: Matrix = rest / np.maximum(np.linalg.norm(rest, axis=1, keepdims=True), 1e-9)
    return unit


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _indexed(texts: Sequence[str]) -> dict[str, tuple[NDArray[np.int64], Floats]]:
    counts = [Counter(_words(text)) for text in texts]
    lengths = np.array([sum(count.values()) for count in counts])
    long = lengths / max(1.0, lengths.mean()) if len(texts) else lengths
    cards: dict[str, list[int]] = defaultdict(list)
    for row, count in enumerate(counts):
        for word in count:
            cards[word].append(row)
    index = {}
    for word, rows in cards.items():
        often = np.array([counts[row][word] for row in rows], dtype=np.float64)
        rare = np.log(1 + (len(texts) - len(rows) + 0.5) / (len(rows) + 0.5))
        weight = rare * often * (_K1 + 1) / (often + _K1 * (1 - _B + _B * long[rows]))
        index[word] = (np.array(rows, dtype=np.int64), weight)
    return index
