"""Phrases that mean something, looked up in a folded text. What they mean is the business of data files and callers.

A phrase of a data file is a line of words. A `*` ends a stem: any letters may follow. ` .. ` stands for up to four
words (or eight Chinese characters). Spaces also match hyphens, slashes and apostrophes, which people set as they like.
Phrases without a gap stand in one tree of characters: the time grows with the text and not with the vocabulary.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

from assistant.text import LETTER, fold

_JOINERS: Final = " -/'_\n\""
_FLAT: Final = str.maketrans(_JOINERS, " " * len(_JOINERS))
_IN_WORD: Final = re.compile(rf"{LETTER}|\d")
_CHINESE: Final = re.compile(r"[\u4e00-\u9fff]")
_BENGALI: Final = re.compile(r"[\u0980-\u09ff]")
_SUFFIXED_FROM: Final = 4  # Bengali words of this many signs take endings; of shorter ones too many are parts of others
_SPELLED_FROM: Final = 5  # shorter words are too near to others for a misspelling to be told
_GAP: Final = r"(?:[\s'/-]+[^\s.;!?]+){0,4}?[\s'/-]+"
_GAP_CHINESE: Final = r"[^.;!?]{0,8}?"

_END: Final = "end"
_STEM: Final = "stem"


@dataclass(frozen=True, slots=True, order=True)
class Hit:
    """Folded characters `start` to `end` are a phrase of `key`."""

    start: int
    end: int
    key: str
    phrase: str = ""


@lru_cache(maxsize=32)
def load(name: str) -> Mapping[str, Any]:
    """A data file of the package, read once."""
    return tomllib.loads((files("assistant") / "data" / f"{name}.toml").read_text("utf-8"))


class Lexicon:
    """Phrases by key; `find` says where a text has them."""

    def __init__(self, phrases: Mapping[str, Iterable[str]]) -> None:
        self.words: dict[str, bool] = {}  # words that may be misspelled, and whether they are stems
        self._tree: dict[str, Any] = {}
        self._gapped: list[tuple[str, str, re.Pattern[str]]] = []
        for key, of_key in phrases.items():
            for phrase in of_key:
                self._add(key, fold(phrase).strip())

    def _add(self, key: str, phrase: str) -> None:
        for word in phrase.split():
            part = word.rstrip("*")
            if len(part) >= _SPELLED_FROM and part.isascii() and part.isalpha():
                self.words[part] = word.endswith("*") or self.words.get(part, False)
        if " .. " in phrase or "*" in phrase[:-1]:
            self._gapped.append((key, phrase, _gapped(phrase)))
            return
        stem = phrase.endswith("*") or (len(phrase) >= _SUFFIXED_FROM and _BENGALI.match(phrase[-1]) is not None)
        place: dict[str, Any] = self._tree
        flat = phrase.removesuffix("*").translate(_FLAT)
        for char in flat:
            place = place.setdefault(char, {})
        place.setdefault(_STEM if stem else _END, []).append((key, phrase))

    def find(self, folded: str) -> list[Hit]:
        """Every place where a phrase stands, in order; of phrases of one key at one place the longest."""
        flat = folded.translate(_FLAT)
        hits: dict[tuple[int, str], Hit] = {}
        for start in _starts(flat):
            for hit in self._walk(flat, start):
                known = hits.get((start, hit.key))
                if known is None or hit.end > known.end:
                    hits[start, hit.key] = hit
        found = list(hits.values())
        for key, phrase, pattern in self._gapped:
            found += (Hit(match.start(), match.end(), key, phrase) for match in pattern.finditer(folded))
        return sorted(found)

    def _walk(self, flat: str, start: int) -> Iterable[Hit]:
        place: dict[str, Any] | None = self._tree
        at = start
        while at < len(flat):
            char = flat[at]
            if char == " " and at > start and flat[at - 1] == " ":
                at += 1
                continue
            place = place.get(char) if place else None
            if place is None:
                return
            at += 1
            if _STEM in place:
                end = at
                while end < len(flat) and _IN_WORD.match(flat[end]) and not flat[end].isdigit():
                    end += 1
                yield from (Hit(start, end, key, phrase) for key, phrase in place[_STEM])
            if _END in place and (at == len(flat) or _boundary(flat, at)):
                yield from (Hit(start, at, key, phrase) for key, phrase in place[_END])


def longest(hits: Iterable[Hit]) -> list[Hit]:
    """Without hits that lie within longer ones: an employment contract is not two topics."""
    kept: list[Hit] = []
    for hit in sorted(hits, key=lambda hit: (hit.start, -hit.end)):
        if any(
            other.start <= hit.start and hit.end <= other.end and other.end - other.start > hit.end - hit.start
            for other in kept
        ):
            continue
        kept.append(hit)
    return kept


@lru_cache(maxsize=64)
def _starts(flat: str) -> tuple[int, ...]:
    """Where phrases may begin; every lexicon asks it of the same few texts."""
    return tuple(at for at in range(len(flat)) if flat[at] != " " and (at == 0 or _boundary(flat, at)))


def _boundary(flat: str, at: int) -> bool:
    """Whether a word may begin or end between two characters: letters and digits join, Chinese characters do not."""
    before, after = flat[at - 1], flat[at]
    if _CHINESE.match(before) or _CHINESE.match(after):
        return True
    return not (_IN_WORD.match(before) and _IN_WORD.match(after))


def _gapped(phrase: str) -> re.Pattern[str]:
    """The pattern of a phrase with gaps."""
    gap = _GAP_CHINESE if _CHINESE.search(phrase) else _GAP
    pieces = []
    for piece in phrase.split(" .. "):
        words = [
            re.escape(word.removesuffix("*")) + (f"(?:{LETTER})*" if word.endswith("*") else "")
            for word in piece.split()
        ]
        pieces.append(r"[\s'/-]+".join(words))
    inner = gap.join(pieces)
    return re.compile(inner) if _CHINESE.search(phrase) else re.compile(rf"(?<!\w){inner}(?!{LETTER}|\d)")


@lru_cache(maxsize=256)
def lexicon(name: str, language: str, section: str = "") -> Lexicon:
    """The phrases of a data file in one language, or in "any": `[section.]key.language = [phrases]`."""
    table: Mapping[str, Any] = load(name)
    if section:
        table = table[section]
    return Lexicon({key: entry.get(language, ()) for key, entry in table.items()})


def find(name: str, languages: Iterable[str], folded: str, section: str = "") -> list[Hit]:
    """Where a text has phrases of a data file in these languages or in "any", in order."""
    return sorted(hit for language in ("any", *languages) for hit in lexicon(name, language, section).find(folded))
