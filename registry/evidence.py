"""Evidence as the node keeps it: what a set of rows is of, and the row that says what a model scored on it.

How evidence of one thing speaks of another is left to the recommender.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Final

from registry.rows import Row
from registry.tables import EvidenceRow

OWN_SOURCE: Final = "this node"
CLASSIFICATION: Final = "text-classification"
GENERAL: Final = "general"
SHORT_CHARS: Final = 40  # an answer up to so long can be the same word for word
FEW_ANSWERS: Final = 0.2  # rows with so few different answers, as a share, are sorted by them
FEWEST_ROWS: Final = 10  # below which that is an accident
MOST_LANGUAGES: Final = 30


@dataclass(frozen=True, slots=True)
class RowsOf:
    """What rows are: their digest, the one task of all of them, their languages, their one domain and subdomain.

    Empty where they say nothing; `domains` is `general` where they are of several. `exact` says whether the share of
    answers that are the expected ones tells how good a model is: of free text it does not.
    """

    digest: str
    task: str
    languages: tuple[str, ...]
    domains: tuple[str, ...]
    exact: bool

    @classmethod
    def of(cls, rows: Sequence[Row]) -> RowsOf:
        """Look at rows; those without the name of a task are sorting where their answers are few and short."""
        asked = json.dumps([(row.task, row.history, row.input, row.output) for row in rows])
        said = _one_of({row.task for row in rows})
        answers = [row.output for row in rows]
        exact = bool(rows) and (all(map(_is_json, answers)) or median(map(len, answers)) <= SHORT_CHARS)
        few = len(rows) >= FEWEST_ROWS and len(set(answers)) <= max(2, FEW_ANSWERS * len(rows))
        unnamed = not any(row.task for row in rows)
        return cls(
            digest=hashlib.sha256(asked.encode()).hexdigest(),
            task=CLASSIFICATION if unnamed and exact and few else said,
            languages=_languages(row.lang for row in rows),
            domains=_domains(rows),
            exact=exact,
        )


def measured(
    model: str,
    release: str,
    rows: RowsOf,
    metrics: Mapping[str, float],
    count: int,
    now: datetime,
    *,
    machine: str,
    right: Sequence[bool] | None = None,
) -> EvidenceRow:
    """What this node measured over `count` rows: `metrics` with `exact_match`, 0 to 1, and which rows were right."""
    exact = metrics.get("exact_match")
    return EvidenceRow(
        model=model,
        release=release,
        benchmark=rows.digest,
        task=rows.task,
        languages=json.dumps(rows.languages),
        domains=json.dumps(rows.domains),
        score=100 * exact if rows.exact and exact is not None else None,
        rows=count,
        right_bits=None if right is None else packed(right),
        metrics=json.dumps(dict(metrics)),
        seconds=metrics.get("seconds"),
        machine=machine,
        here=True,
        source=OWN_SOURCE,
        created=now,
    )


def packed(bits: Sequence[bool]) -> bytes:
    """Bits as bytes, the first one highest."""
    whole = int("".join("1" if bit else "0" for bit in bits).ljust(-(-len(bits) // 8) * 8, "0") or "0", 2)
    return whole.to_bytes(-(-len(bits) // 8))


def unpacked(data: bytes, count: int) -> list[bool]:
    """The first `count` bits of what `packed` gave."""
    return [bool(data[place // 8] >> (7 - place % 8) & 1) for place in range(min(count, 8 * len(data)))]


def _one_of(names: set[str]) -> str:
    return names.pop() if len(names) == 1 else ""


def _languages(said: Iterable[str]) -> tuple[str, ...]:
    found = sorted({one.partition("-")[0].lower() for one in said if one})
    return tuple(found) if len(found) <= MOST_LANGUAGES else ()


def _domains(rows: Sequence[Row]) -> tuple[str, ...]:
    domains = {row.domain for row in rows}
    if not any(domains):
        return ()
    if not (domain := _one_of(domains)):
        return (GENERAL,)
    subdomain = _one_of({row.subdomain for row in rows})
    return (domain, subdomain) if subdomain else (domain,)


def _is_json(answer: str) -> bool:
    try:
        return isinstance(json.loads(answer), dict | list)
    except (ValueError, RecursionError):
        return False
