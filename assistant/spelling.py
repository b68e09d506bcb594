"""Misspelled words of the vocabulary, set right before anything else reads them. Words of English are left alone.

What counts as English is the vocabulary of the embedding model's tokenizer: 30,000 frequent words, at hand anyway.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from rapidfuzz.distance import OSA

from assistant.languages import names
from assistant.lexicon import lexicon, load
from assistant.text import Text, fold, words
from recommender.embed import default_folder

_SHORTEST: Final = 5
_TWO_SLIPS_FROM: Final = 9  # letters; in shorter words two slips make another word
_FOREIGN_SHORTEST: Final = 7  # of other languages we know no list of words, so only long ones are set right
_SHORTEST_STEM: Final = 6
_PART: Final = 4
_MOST_UNKNOWN: Final = 40  # words that are looked up in one turn
_UNITS: Final = (
    "parameters parameter tokens token second seconds memory gigabyte gigabytes megabytes billion million context"
)
_LEXICONS: Final = (
    ("topics", ""), ("tasks", "strong"), ("tasks", "weak"), ("tasks", "pair"), ("policies", ""), ("licences", ""),
    ("devices", ""), ("clauses", ""), ("limits", ""),
)  # fmt: skip


def corrected(text: Text, languages: tuple[str, ...]) -> Text:
    """The turn with the misspelled words of its vocabulary set right; spans still point at what was typed."""
    unknown = [match for match in words(text.folded) if _is_unknown(match.group(), languages)][:_MOST_UNKNOWN]
    for match in reversed(unknown):
        right = _nearest(match.group(), languages)
        if right is not None:
            text = text.replaced(match.start(), match.end(), right)
    return text


def _is_unknown(word: str, languages: tuple[str, ...]) -> bool:
    shortest = _SHORTEST if languages[0] == "en" else _FOREIGN_SHORTEST
    if len(word) < shortest or not word.isascii() or _is_english(word):
        return False
    known = _vocabulary(languages)
    return word not in known and not any(known.get(word[:length], False) for length in range(_SHORTEST - 1, len(word)))


@lru_cache(maxsize=2048)
def _is_english(word: str) -> bool:
    """Whether it is a frequent word, or two of them joined as in "rulebooks"."""
    known = _english()
    stem = word.removesuffix("s")
    return (
        word in known
        or stem in known
        or any(stem[:place] in known and stem[place:] in known for place in range(_PART, len(stem) - _PART + 1))
    )


@lru_cache(maxsize=2048)
def _nearest(word: str, languages: tuple[str, ...]) -> str | None:
    """The word that was meant: the nearest by slips of the fingers, the longest among equals; None if none is near."""
    slips = 2 if len(word) >= _TWO_SLIPS_FROM and languages[0] == "en" else 1
    best: tuple[int, int, str] | None = None
    for stem, open_ended in _vocabulary(languages).items():
        if open_ended and len(stem) < _SHORTEST_STEM:
            continue  # "instruct" is no slip of "insur*"
        if stem[0] != word[0] or len(stem) > len(word) + slips or (not open_ended and len(stem) < len(word) - slips):
            continue
        lengths = range(len(stem) - 1, min(len(stem) + 1, len(word)) + 1) if open_ended else (len(word),)
        for length in lengths:
            distance = OSA.distance(stem, word[:length], score_cutoff=slips)
            if distance and languages[0] != "en" and length == len(stem):
                continue  # another letter makes another word too often: processeur, professeur
            if distance <= slips and (best is None or (distance, -len(stem)) < best[:2]):
                best = (distance, -len(stem), stem + (word[length:] if open_ended else ""))
    return best[2] if best else None


@lru_cache(maxsize=1)
def _english() -> frozenset[str]:
    return frozenset((default_folder() / "vocab.txt").read_text("utf-8").split())


@lru_cache(maxsize=64)
def _vocabulary(languages: tuple[str, ...]) -> dict[str, bool]:
    """The words that the detectors know in these languages, and whether they are stems."""
    found: dict[str, bool] = dict.fromkeys(_UNITS.split(), False)
    for language in languages:
        for name, section in _LEXICONS:
            found |= lexicon(name, language, section).words
        found |= names(language).words
        table = load("numbers").get(language, {"values": (), "scales": ()})
        found |= {fold(word): False for word in (*table["values"], *table["scales"]) if len(word) >= _SHORTEST}
    return {word: open_ended for word, open_ended in found.items() if word.isascii()}
