"""A turn as the detectors read it: folded, with the way back to what was typed. No meaning here.

Folding makes one spelling of many: lower case, no Latin diacritics, ASCII digits and quotes, no joiners. Every folded
character knows the characters of the original that it came from, so that spans point into what the user wrote.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from recommender.constraints import Span

LETTER: Final = r"[^\W\d_\u4e00-\u9fff]|[\u0980-\u0983\u09bc-\u09cd\u09d7]"
"""A letter of a script that separates words: Bengali vowel signs belong to it, Chinese characters do not."""

_OWN_FOLDS: Final = {
    "ł": "l", "ø": "o", "đ": "d", "ß": "ss", "æ": "ae", "œ": "oe", "ı": "i",
    "’": "'", "‘": "'", "ʼ": "'", "`": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"',
    "–": "-", "—": "-", "‑": "-", "−": "-", "~": "-", "、": ",", "।": ".", "。": ".", "×": "x", "≤": "≤", "≥": "≥",
    "\u200c": "", "\u200d": "", "\ufe0f": "",
}  # fmt: skip
_BENGALI: Final = range(0x0980, 0x0A00)


@lru_cache(maxsize=4096)
def _fold_char(char: str) -> str:
    """One character as a detector reads it: none, one or several."""
    if char in _OWN_FOLDS:
        return _OWN_FOLDS[char]
    if unicodedata.category(char) == "Nd":
        return str(unicodedata.digit(char))
    folded = ""
    for part in unicodedata.normalize("NFKD", char).lower():
        if part in _OWN_FOLDS:
            folded += _OWN_FOLDS[part]
        elif part.isspace():
            folded += "\n" if part == "\n" else " "
        elif not unicodedata.combining(part) or ord(part) in _BENGALI:
            folded += part
    return folded


def fold(text: str) -> str:
    """A text as detectors read it."""
    return "".join(map(_fold_char, text))


@dataclass(frozen=True, slots=True)
class Text:
    """One turn: `original` as typed, `folded` to read, and for each folded character where it was typed."""

    turn: int
    original: str
    folded: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, original: str, turn: int = 0) -> Text:
        """Fold a turn."""
        folded: list[str] = []
        starts: list[int] = []
        for place, char in enumerate(original):
            for part in _fold_char(char):
                folded.append(part)
                starts.append(place)
        return cls(turn, original, "".join(folded), tuple(starts), tuple(start + 1 for start in starts))

    def replaced(self, start: int, end: int, text: str) -> Text:
        """The same turn where folded characters `start` to `end` read as `text`, which points at all of them."""
        first, last = self.starts[start], self.ends[end - 1]
        return Text(
            self.turn,
            self.original,
            self.folded[:start] + text + self.folded[end:],
            self.starts[:start] + (first,) * len(text) + self.starts[end:],
            self.ends[:start] + (last,) * len(text) + self.ends[end:],
        )

    def span(self, start: int, end: int) -> Span:
        """Where folded characters `start` to `end` were typed."""
        return Span(turn=self.turn, start=self.starts[start], end=self.ends[max(start, end - 1)])

    def typed(self, start: int, end: int) -> str:
        """Folded characters `start` to `end` as the user typed them."""
        return self.original[self.starts[start] : self.ends[max(start, end - 1)]]


_WORD: Final = re.compile(rf"(?:{LETTER})+")


def words(folded: str) -> list[re.Match[str]]:
    """The words of a folded text in scripts that separate words."""
    return list(_WORD.finditer(folded))
