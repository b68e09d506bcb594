"""A catalogue as columns, so that a rule is one comparison of an array, at a million models too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recommender.candidate import Candidate
from recommender.memory import BITS, Floats, Sizes, sizes_of

Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]

KINDS: Final = ("generative", "encoder", "embedding")
YES, NO, UNSTATED = 1, 0, -1


@dataclass(frozen=True, slots=True)
class Labels:
    """Words that models carry, several each: for every word the rows that have it."""

    rows: dict[str, Rows]
    stated: Mask

    @classmethod
    def of(cls, words: Iterable[Iterable[str]], count: int) -> Labels:
        """The words of each model, in the order of the models."""
        found: dict[str, list[int]] = defaultdict(list)
        stated = np.zeros(count, dtype=np.bool_)
        for row, of_one in enumerate(words):
            for word in of_one:
                found[word].append(row)
                stated[row] = True
        return cls({word: np.array(rows, dtype=np.int64) for word, rows in found.items()}, stated)

    def has(self, word: str) -> Mask:
        """Which models carry a word."""
        mask = np.zeros(self.stated.shape, dtype=np.bool_)
        mask[self.rows.get(word, np.zeros(0, dtype=np.int64))] = True
        return mask


@dataclass(frozen=True, slots=True)
class Columns:
    """Candidates and their facts; nan, an empty label or `UNSTATED` where nobody said.

    `kind` is an index into `KINDS`. `stored_bits` is per weight where the file is already quantised or its numbers are
    known, `published_gb` a published figure of memory.
    """

    candidates: Sequence[Candidate]
    sizes: Sizes
    kind: NDArray[np.int8]
    local: Mask
    tree: Mask
    quantised: Mask
    stored_bits: Floats
    published_gb: Floats
    context: Floats
    price: Floats
    commercial: NDArray[np.int8]
    licences: Labels
    languages: Labels
    tasks: Labels
    domains: Labels
    subdomains: Labels

    def __len__(self) -> int:
        return len(self.candidates)

    @classmethod
    def of(cls, candidates: Sequence[Candidate]) -> Columns:
        """The columns of candidates, in their order."""
        count = len(candidates)
        bits = [_stored_bits(candidate) for candidate in candidates]
        return cls(
            candidates=candidates,
            sizes=sizes_of(candidates),
            kind=np.array([KINDS.index(one.kind) for one in candidates], dtype=np.int8),
            local=np.array([one.weights == "local" for one in candidates], dtype=np.bool_),
            tree=np.array([one.source == "tree" for one in candidates], dtype=np.bool_),
            quantised=np.array([one.architecture.quantisation is not None for one in candidates], dtype=np.bool_),
            stored_bits=_numbers(bits),
            published_gb=_numbers([one.memory_gb for one in candidates]),
            context=_numbers([one.context_tokens for one in candidates]),
            price=_numbers([one.price_usd_per_mtok for one in candidates]),
            commercial=np.array([_yes_or_no(one.commercial) for one in candidates], dtype=np.int8),
            licences=Labels.of((_alternatives(one.license) for one in candidates), count),
            languages=Labels.of((one.languages for one in candidates), count),
            tasks=Labels.of((one.tasks for one in candidates), count),
            domains=Labels.of((one.domains for one in candidates), count),
            subdomains=Labels.of((one.subdomains for one in candidates), count),
        )

    def bytes(self) -> int:
        """What the columns take beside the candidates themselves."""
        labels = (self.licences, self.languages, self.tasks, self.domains, self.subdomains)
        own: list[NDArray[Any]] = [self.kind, self.local, self.tree, self.quantised, self.stored_bits]
        own += [self.published_gb, self.context, self.price, self.commercial]
        own += [getattr(self.sizes, name) for name in type(self.sizes).__dataclass_fields__]
        own += [rows for label in labels for rows in (label.stated, *label.rows.values())]
        return sum(array.nbytes for array in own)


def licence_key(said: str) -> str:
    """Licences are compared without regard to case."""
    return said.strip().lower()


def _alternatives(expression: str | None) -> list[str]:
    """The licences of which the user may choose one; "A AND B" stays whole, because both bind."""
    if not expression:
        return []
    whole = expression.replace("(", " ").replace(")", " ")
    return [licence_key(one) for one in whole.split(" OR ")] if " AND " not in whole else [licence_key(expression)]


def _stored_bits(candidate: Candidate) -> float | None:
    shape = candidate.architecture
    if shape.quantisation is not None:
        return BITS.get(shape.quantisation.upper())
    return None if shape.weight_bytes is None else 8 * shape.weight_bytes


def _yes_or_no(said: bool | None) -> int:
    return UNSTATED if said is None else YES if said else NO


def _numbers(values: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
