"""Numbers in a folded text, in digits and in words of eight languages. Their units are the business of `quantities`.

"24k", "32.768", "1,5 Milliarden", "half a billion", "quatre-vingt mille", "三万二千" are numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from assistant.lexicon import load
from assistant.text import LETTER, fold

_COMMA_GROUPS: Final = {"en", "zh", "bn"}  # in the others a dot groups thousands and a comma is the decimal sign
_DIGITS: Final = re.compile(r"(?<![\d.])(?:\d{1,3}(?:[.,']\d{3}(?!\d))+(?:[.,]\d+)?|\d+(?:[.,]\d+)?)")
_SPACED: Final = re.compile(r"(?<![\d.])(?:\d{1,3}(?:[.,' ]\d{3}(?!\d))+(?:[.,]\d+)?|\d+(?:[.,]\d+)?)")
_HAN: Final = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"两": 2, "〇": 0, "俩": 2}
_HAN_SCALES: Final = {"十": 10, "百": 100, "千": 1000, "万": 10_000, "亿": 100_000_000}
_HAN_NUMBER: Final = re.compile(r"[零〇一二两俩三四五六七八九十百千万亿半]+(?:点[零一二三四五六七八九]+)?")
_HAN_TAIL: Final = re.compile(r"\s*(十亿|百万|千万|[十百千万亿]+)")
_SCALES_AFTER_DIGITS: Final = re.compile(r"[\s-]*")


@dataclass(frozen=True, slots=True)
class Numeral:
    """Folded characters `start` to `end` are the number `value`; `spelled` where words are part of it."""

    start: int
    end: int
    value: float
    spelled: bool = False
    scale: float = 1.0
    """The scale word that ends it, as 1e9 of "3 billion"; 1 where none does."""


@dataclass(frozen=True, slots=True)
class _Words:
    values: dict[str, float]
    scales: dict[str, float]
    phrases: dict[tuple[str, ...], float]
    glue: frozenset[str]
    points: frozenset[str]
    a_scale: frozenset[str]
    halves: tuple[tuple[str, ...], ...]


@lru_cache(maxsize=64)
def _words_of(languages: tuple[str, ...]) -> _Words:
    tables: list[dict[str, Any]] = [load("numbers")[code] for code in reversed(languages) if code in load("numbers")]
    folded = [{fold(word): float(value) for word, value in {**t["values"], "\0": 0}.items()} for t in tables]
    return _Words(
        values={word: value for table in folded for word, value in table.items()},
        scales={fold(word): float(value) for table in tables for word, value in table["scales"].items()},
        phrases={
            tuple(fold(words).split()): float(value) for table in tables for words, value in table["phrases"].items()
        },
        glue=frozenset(word for table in tables for word in table["glue"]),
        points=frozenset(fold(word) for table in tables for word in table["point"]),
        a_scale=frozenset(word for table in tables for word in table["a_scale"]),
        halves=tuple(tuple(words.split()) for table in tables for words in table["and_half"]),
    )


def numerals(folded: str, languages: tuple[str, ...]) -> list[Numeral]:
    """Every number of a text, in order, none within another."""
    found = [*_in_digits(folded, languages), *_in_words(folded, languages), *_in_han(folded)]
    found.sort(key=lambda numeral: (numeral.start, -numeral.end))
    kept: list[Numeral] = []
    for numeral in found:
        if not kept or numeral.start >= kept[-1].end:
            kept.append(numeral)
    return kept


def read_digits(digits: str, languages: Sequence[str]) -> float:
    """What digits with dots and commas say to people who write the first of these languages."""
    digits = re.sub(r"[\s'\u202f]", "", digits)
    groups, decimal = (",", ".") if languages[0] in _COMMA_GROUPS else (".", ",")
    if re.fullmatch(rf"[1-9]\d{{0,2}}(\{groups}\d{{3}})+(\{decimal}\d+)?", digits):
        digits = digits.replace(groups, "")
    elif re.fullmatch(rf"[1-9]\d{{0,2}}(\{decimal}\d{{3}}){{2,}}", digits) or re.fullmatch(
        r"[1-9]\d{0,2}(,\d{3})+", digits
    ):
        digits = digits.replace(",", "").replace(".", "")
    head, _, tail = digits.replace(",", ".").rpartition(".")
    return float(f"{head.replace('.', '')}.{tail}" if head else tail)


def _in_digits(folded: str, languages: tuple[str, ...]) -> Iterator[Numeral]:
    known = _words_of(languages)
    written = _DIGITS if languages[0] in _COMMA_GROUPS else _SPACED
    for match in written.finditer(folded):
        digits = match.group()
        value, end, scale = read_digits(digits, languages), match.start() + len(digits), 1.0
        if tail := _HAN_TAIL.match(folded, end):
            for char in tail.group(1):
                scale *= _HAN_SCALES[char]
            value, end = value * scale, tail.end()
        while True:
            gap = _SCALES_AFTER_DIGITS.match(folded, end)
            word = _word_at(folded, gap.end() if gap else end)
            factor = known.scales.get(_stem(word.group())) if word else None
            if word is None or factor is None or (scale > 1 and factor < scale):
                break
            scale = factor
            value, end = value * scale, word.end()
        yield Numeral(match.start(), end, value, scale > 1, scale)


_WORD: Final = re.compile(rf"(?:{LETTER})+")


_BENGALI_ENDING: Final = re.compile(r"(?<=[\u0980-\u09ff]{3})(?:ের|এর|টি|টা|ে)$")


def _stem(word: str) -> str:
    """A Bengali word without its ending where what is left is a number word; any other as it is."""
    stem = _BENGALI_ENDING.sub("", word)
    return stem if stem != word and stem in _bengali() else word


@lru_cache(maxsize=1)
def _bengali() -> frozenset[str]:
    table = load("numbers")["bn"]
    return frozenset(fold(word) for word in (*table["values"], *table["scales"]))


def _word_at(folded: str, at: int) -> re.Match[str] | None:
    return _WORD.match(folded, at)


def _in_words(folded: str, languages: tuple[str, ...]) -> Iterator[Numeral]:
    """Runs of number words, the longest from each place; joined German words are taken apart."""
    known = _words_of(languages)
    said = list(_WORD.finditer(folded))
    at = 0
    while at < len(said):
        value, count, scale = _run(folded, said, at, known, german="de" in languages)
        if count == 0:
            at += 1
            continue
        yield Numeral(said[at].start(), said[at + count - 1].end(), value, True, scale)
        at += count


@dataclass
class _Count:
    """A number while its words are read: what is complete, and what waits for its scale."""

    known: _Words
    german: bool
    total: float = 0.0
    current: float | None = None
    scale: float = 1.0
    decimals: str = ""

    @property
    def value(self) -> float:
        """What the words so far say."""
        current = self.current or 0.0
        if len(self.decimals) > 1:
            current = float(f"{int(current)}{self.decimals}")
        return self.total + current

    def take(self, said: list[re.Match[str]], place: int, *, first: bool) -> int:
        """Take in the words from `place` on that continue the number; how many they were, 0 where it has ended."""
        word = _stem(said[place].group())
        if count := self._phrase(said, place, word) or self._scale(said, place, word) or self._digit(word):
            return count
        if word in self.known.points and self.current is not None and not self.decimals:
            self.decimals = "."
            return 1
        if first and word in self.known.a_scale and _scale_next(said, place, self.known):
            self.current = 1.0
            return 1
        return int(not first and word in self.known.glue and _number_next(said, place, self.known, self.german))

    def _phrase(self, said: list[re.Match[str]], place: int, word: str) -> int:
        if self.current == 4 and word in ("vingt", "vingts"):
            self.current = 80.0
            return 1
        if self.current is not None:
            return 0
        phrase = next((phrase for phrase in self.known.phrases if _stands(said, place, phrase)), ())
        if not phrase or (len(phrase) == 1 and word in self.known.values):
            return 0
        self.current = self.known.phrases[phrase]
        return len(phrase)

    def _scale(self, said: list[re.Match[str]], place: int, word: str) -> int:
        scale = self.known.scales.get(word)
        begins = self.current is None and not self.total
        if scale is None or (begins and (scale not in (100, 1000) or word.endswith("s"))):
            return 0
        if scale == 100:
            if self.current is not None and self.current > 9:
                return 0  # "seventy cents" in French
            self.current = (self.current or 1) * 100
            return 1
        waiting = None if self.current is None else self.value - self.total
        if 0 < self.total < scale:
            self.total = (self.total + (waiting or 0.0)) * scale
        else:
            self.total += scale * (1.0 if waiting is None else waiting)
        self.current, self.decimals, self.scale = None, "", scale
        half = next((half for half in self.known.halves if _stands(said, place + 1, half)), ())
        self.total += scale / 2 if half else 0
        return 1 + len(half)

    def _digit(self, word: str) -> int:
        value = self.known.values.get(word, _german(word) if self.german else None)
        if value is None:
            return 0
        if self.decimals:
            self.decimals += str(int(value))
        elif self.current is not None and not _may_follow(self.current, value):
            return 0
        else:
            self.current = (self.current or 0) + value
        return 1


def _run(folded: str, said: list[re.Match[str]], at: int, known: _Words, *, german: bool) -> tuple[float, int, float]:
    """(value, words taken, last scale) of the number that begins with word `at`; no words where none does."""
    number, place, end = _Count(known, german), at, at
    while place < len(said) and (place == at or _adjacent(folded, said[place - 1], said[place])):
        count = number.take(said, place, first=place == at)
        if not count:
            break
        waits = place > at and said[place].group() in known.glue | known.points
        place += count
        end = end if waits else place
    return number.value, end - at, number.scale


def _stands(said: list[re.Match[str]], place: int, phrase: tuple[str, ...]) -> bool:
    return tuple(match.group() for match in said[place : place + len(phrase)]) == phrase


def _adjacent(folded: str, before: re.Match[str], after: re.Match[str]) -> bool:
    return set(folded[before.end() : after.start()]) <= {" ", "-"}


def _may_follow(current: float, value: float) -> bool:
    """Twenty and then three is one number; three and then twenty, or twenty and thirty, are two."""
    if current >= 100:
        return (current % 100 == 0 and value < 100) or (current % 10 == 0 and current % 100 >= 20 and value < 10)
    return current >= 20 and current % 10 == 0 and (value < 10 or (current in (60, 80) and value < 20))


def _scale_next(said: list[re.Match[str]], place: int, known: _Words) -> bool:
    return place + 1 < len(said) and known.scales.get(said[place + 1].group(), 0) >= 100


def _number_next(said: list[re.Match[str]], place: int, known: _Words, german: bool) -> bool:
    if place + 1 >= len(said):
        return False
    word = said[place + 1].group()
    counts = known.values.get(word, 0) > 0 or (german and _german(word) is not None)
    return counts or word in known.scales


@lru_cache(maxsize=512)
def _german(word: str) -> float | None:
    """A joined German number word, as "zweiunddreissigtausend"; None where it is none."""
    table: dict[str, float] = {fold(name): float(value) for name, value in load("numbers")["de"]["values"].items()}
    if word in table:
        return table[word]
    for scale, factor in (("tausend", 1000.0), ("hundert", 100.0)):
        head, found, tail = word.partition(scale)
        if found:
            first = _german(head) if head else 1.0
            rest = _german(tail.removeprefix("und")) if tail else 0.0
            return None if first is None or rest is None else first * factor + rest
    ones, joined, tens = word.partition("und")
    if joined and ones in table and tens in table and table[ones] < 10 <= table[tens]:
        return table[ones] + table[tens]
    return None


def _in_han(folded: str) -> Iterator[Numeral]:
    for match in _HAN_NUMBER.finditer(folded):
        if (value := read_han(match.group())) is not None:
            yield Numeral(match.start(), match.end(), value, True, 1e8 if "亿" in match.group() else 1.0)


def read_han(text: str) -> float | None:
    """A number in Chinese characters; None where the characters are no number."""
    whole, _, decimals = text.partition("点")
    if whole == "半":
        return 0.5
    half = whole.endswith("半")
    total, section, digit = 0.0, 0.0, None
    for char in whole.removesuffix("半"):
        if char in _HAN:
            digit = float(_HAN[char])
        elif (scale := _HAN_SCALES.get(char)) is None:
            return None
        elif scale < 10_000:
            section, digit = section + (1.0 if digit is None else digit) * scale, None
        else:
            section += digit or 0.0
            if not section and not total:
                return None
            total, section, digit = (total + section) * scale if section or total else 0.0, 0.0, None
    value = total + section + (digit or 0.0)
    if decimals:
        value = float(f"{int(value)}.{''.join(str(_HAN[char]) for char in decimals)}")
    return value + 0.5 if half else value
