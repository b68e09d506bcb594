"""What users' voices are worth: a bounded nudge to the order of answers, and never a rule.

One who uses a model knows something that no benchmark measured, and not how good the others are. So a voice is weak
evidence: one voice moves a model by at most 0.4 points, and all voices together by less than `MOST_POINTS`, which is
less than a wish is worth (`rank.WISH_POINTS`) and less than any interval is wide. What a rule keeps out stays out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

MOST_POINTS: Final = 2.0
CALM: Final = 4.0  # voices of no opinion that every model begins with
NEUTRAL: Final = 3
CLONED: Final = 0.25  # of a best rating: who clones has not tried yet


@dataclass(frozen=True, slots=True)
class Voice:
    """The last word of one user, or node, on a model: a rating from 1 to 5, or that it was cloned (None)."""

    model: str
    speaker: str
    rating: int | None = None

    @property
    def opinion(self) -> float:
        """From -1 to 1."""
        return CLONED if self.rating is None else (self.rating - NEUTRAL) / 2


def liked(voices: Iterable[Voice]) -> Mapping[str, float]:
    """Points by model. Of one speaker one voice counts: the rating, where there is one."""
    opinions: dict[str, dict[str, Voice]] = defaultdict(dict)
    for voice in voices:
        known = opinions[voice.model].get(voice.speaker)
        if known is None or voice.rating is not None:
            opinions[voice.model][voice.speaker] = voice
    return {
        model: MOST_POINTS * sum(voice.opinion for voice in said.values()) / (len(said) + CALM)
        for model, said in opinions.items()
    }
