"""In which languages a user writes, as far as the choice of vocabulary needs it. Not a detector of any language."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from assistant.lexicon import load
from assistant.text import words

SPOKEN: Final = ("en", "es", "de", "fr", "pl", "pt", "bn", "zh")
"""The languages that are understood; Bengali in its own letters and in Latin ones."""

_BENGALI: Final = re.compile(r"[\u0980-\u09ff]")
_CHINESE: Final = re.compile(r"[\u4e00-\u9fff]")
_NEAR: Final = 0.75  # of the best count: closely related languages share their short words


def spoken(folded: str) -> tuple[str, ...]:
    """The languages of a folded text, likeliest first; English is always among them: its terms are used everywhere."""
    found = [code for code, script in (("bn", _BENGALI), ("zh", _CHINESE)) if script.search(folded)]
    said = [match.group() for match in words(folded)]
    counts = {code: sum(_weight(word) for word in said if word in known) for code, known in _function_words().items()}
    best = max(counts.values())
    if not found and not best and not folded.isascii():
        return SPOKEN
    found += [code for code, count in counts.items() if count and count >= _NEAR * best and code not in found]
    found.sort(key=lambda code: -counts.get(code, 0) if code not in ("bn", "zh") else -len(folded))
    return tuple(found) if "en" in found else (*found, "en")


def spoken_surely(folded: str, least: int) -> str:
    """The one language of a folded text where its words tell, "" where they do not: a number, a name, too few words.

    A word that no other language has counts two; `least` is how much they must come to together.
    """
    for code, script in (("bn", _BENGALI), ("zh", _CHINESE)):
        if script.search(folded):
            return code
    said = [match.group() for match in words(folded)]
    counts = {code: sum(_weight(word) for word in said if word in known) for code, known in _function_words().items()}
    first, second, *_ = sorted(counts, key=lambda code: -counts[code])
    return first if counts[first] >= least and counts[first] > counts[second] else ""


@lru_cache(maxsize=1024)
def _weight(word: str) -> int:
    """A word of one language tells more than one that several share."""
    return 2 if sum(word in known for known in _function_words().values()) == 1 else 1


@lru_cache(maxsize=1)
def _function_words() -> dict[str, frozenset[str]]:
    return {code: frozenset(entry["words"]) for code, entry in load("speech").items()}
