"""What one place of a turn says of one slot: the form in which the detectors speak to `merge`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Mention:
    """Folded characters `start` to `end` say that `slot` is `value`; a wish where not `hard`.

    `kind` tells apart what merging must tell apart: where memory is, what part of a translation a language is.
    `weight` orders mentions of one slot in one turn.
    """

    slot: str
    value: Any
    start: int
    end: int
    hard: bool = True
    kind: str = ""
    weight: float = 1.0
