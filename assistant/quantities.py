"""Numbers with units: memory, parameters, context, speed and price. What a number is not of is left alone.

Pages, people, years, budgets of projects, disks, sizes of data sets and the numbers in names of models state nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from assistant.clauses import Piece, Reading
from assistant.hardware import Machine
from assistant.lexicon import load
from assistant.mention import Mention
from assistant.numerals import Numeral
from assistant.patterns import one_of

_FILE: Final = "units"
_TOKENS: Final = one_of(_FILE, "tokens")
_SECOND: Final = rf"{one_of(_FILE, 'second', 'second_short')}(?![a-z])"
_PER: Final = rf"\s*(?:/|{one_of(_FILE, 'per', whole=True)})\s*"
_PARAMS: Final = one_of(_FILE, "parameters")
_SIZE_UNIT: Final = r"\d\s?(?:gb|gib|mb|tb|go|g)\b"

_RATE_AFTER: Final = re.compile(rf"\s*[+-]?\s*(?:{_TOKENS}|t|words)?{_PER}{_SECOND}|\s*(?:tps|t/s)\b")
_RATE_BEFORE: Final = re.compile(
    rf"(?:{one_of(_FILE, 'per_before', whole=True)}\s+{one_of(_FILE, 'second')}(?![a-z])|"
    rf"{one_of(_FILE, 'rate_before', whole=True)}|{_TOKENS}\s*/\s*s|{_TOKENS}{_PER}{_SECOND})[^.;,\d]{{0,24}}$"
)
_PER_MINUTE: Final = re.compile(rf"\s*{_TOKENS}{_PER}{one_of(_FILE, 'minute')}")
_TOKENS_AFTER: Final = re.compile(rf"\s*[+-]?\s*(?P<k>k\b\+?|k(?={_TOKENS}))?\s*-?\s*(?P<tokens>{_TOKENS})")
_K_AFTER: Final = re.compile(r"\s?-?k(?![a-z0-9])")
_M_AFTER: Final = re.compile(r"\s?m(?![a-z0-9])")
_CONTEXT: Final = re.compile(one_of(_FILE, "context"))
_GB_AFTER: Final = re.compile(rf"\s*[+-]?\s*{one_of(_FILE, 'gigabytes')}(?![a-z])")
_G_AFTER: Final = re.compile(r"\s?个?g(?![a-z])")
_GO_AFTER: Final = re.compile(r"\s?go\b")
_MB_AFTER: Final = re.compile(rf"\s*-?\s*{one_of(_FILE, 'megabytes')}(?![a-z])")
_TB_AFTER: Final = re.compile(
    rf"\s*-?\s*{one_of(_FILE, 'terabytes')}\s+(?:{one_of(_FILE, 'of')}\s+)?{one_of(_FILE, 'memory')}\b"
)
_NETWORK: Final = re.compile(rf"\s?g(?:\s+{one_of(_FILE, 'network')}|\b[,.]?\s*by the way)")
_B_AFTER: Final = re.compile(rf"\s?-?(?:bn|b)(?![a-z])(?:[\s-]*(?:de\s+|di\s+)?{_PARAMS})?")
_PARAMS_AFTER: Final = re.compile(rf"(?P<m>\s?m(?![a-z]))?[\u0980-\u09ff]*[\s-]*(?:de\s+|of\s+)?{_PARAMS}")
_PARAMS_NEAR: Final = re.compile(_PARAMS)
_BARE_BILLIONS: Final = re.compile(rf"[\u0980-\u09ff]*\s*(?:[.;,)\n]|$|{one_of(_FILE, 'after_billions', whole=True)})")
_OF_MODELS: Final = re.compile(rf"{one_of(_FILE, 'families', 'families_of_sizes')}[\s\w.-]{{0,12}}$")
_MODEL_NAMES: Final = re.compile(
    rf"\b{one_of(_FILE, 'families')}[\s-]?v?\d+(?:\.\d+)?(?:[\s-]\d+(?:\.\d+)?[bm]\b)?"
    r"|\b\d+x\d+b\b|\bq\d_[\w]+|\bint[48]\b|\b[fb][fp]?(?:16|32|8|4)\b|\b\d+[\s-]?bit\b|\biq\d\w*|"
    r"\biso\s?\d+|\b[45]g\b(?=\s*(?:,|by|network|router))|\b\d{1,2}(?:st|nd|rd|th)\b|\d º"
)
_MONEY_BEFORE: Final = re.compile(rf"{one_of(_FILE, 'dollars_before')}\s*$")
_MONEY_AFTER: Final = re.compile(
    rf"\s*(?:(?P<cents>{one_of(_FILE, 'cents')}(?!\w)|c\b(?=\s*(?:/|per)))|(?P<dollars>{one_of(_FILE, 'dollars')}))"
)
_PER_TOKENS: Final = re.compile(
    rf"{one_of(_FILE, 'per_tokens', whole=True)}\s*{one_of(_FILE, 'one')}?\s*"
    rf"(?:(?P<thousand>{one_of(_FILE, 'thousand', ends=True)})|(?P<million>{one_of(_FILE, 'million', ends=True)}))"
)
_PER_TOKENS_BEFORE: Final = re.compile(rf"{one_of(_FILE, 'per_tokens_before', whole=True)}\s*$")
_RANGE: Final = re.compile(rf"\s*(?:b|bn|gb|k|m)?\s*{one_of(_FILE, 'to')}\s*$")
_UPPER_RATE: Final = re.compile(rf"{one_of(_FILE, 'slower')} .*$")
_EITHER: Final = re.compile(rf"\d\s*(?:gb|gigs?|g)?\s*{one_of(_FILE, 'either')}\s*(?:the\s+)?$")
_NOT_MORE: Final = re.compile(
    rf"\b{one_of(_FILE, 'no')}\s+(?:\w+\s+){{0,2}}{one_of(_FILE, 'larger', whole=True)}\b[^\d]{{0,14}}$"
)
_SMALLEST_MODEL_M: Final = 20  # millions of parameters: below, "5M" is of something else
_M_TOKENS: Final = re.compile(rf"\s?m\s*{one_of(_FILE, 'millions_of')}")
_NOTHING: Final = re.compile(r"")
_SIZE: Final = re.compile(_SIZE_UNIT)
_NEXT_SIZE: Final = re.compile(rf"{_SIZE_UNIT}|,|{one_of(_FILE, 'next', whole=True)}")
_UNIT: Final = re.compile(rf"\s?(?:{one_of(_FILE, 'euros', whole=True)}|[x×]\b|°|:\d|/\d|\.\d|\s?[ap]m\b|-\w)")
_NEXT_WORD: Final = re.compile(r"\s*([^\W\d]+)")
_NOT_COUNTED: Final = frozenset(word for words in load("limits")["not_counted"].values() for word in words)


@dataclass(frozen=True, slots=True)
class _Place:
    """A number and what stands around it."""

    numeral: Numeral
    reading: Reading
    clause: Piece

    @property
    def before(self) -> str:
        """What its clause says before it."""
        return self.reading.folded[self.clause.start : self.numeral.start]

    def after(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """What stands right behind it."""
        return pattern.match(self.reading.folded, self.numeral.end)

    def says(self, cue: str, reach: int = 200) -> bool:
        """Whether a cue stands in the clause, at most so many characters away."""
        near = range(self.numeral.start - reach, self.numeral.end + reach)
        return any(hit.start in near for hit in self.reading.said(cue, self.clause))

    def mention(self, slot: str, value: float, end: int, kind: str = "") -> Mention:
        """What it says of a slot."""
        start = self.numeral.start
        return Mention(slot, value, start, end, not self.reading.wished(start), kind)


def model_names(folded: str) -> list[tuple[int, int]]:
    """Where names of models and of number formats stand: their digits are no quantities."""
    return [match.span() for match in _MODEL_NAMES.finditer(folded)]


def quantities(reading: Reading, numerals: list[Numeral], machines: list[Machine]) -> list[Mention]:
    """What the numbers of a turn say; a number without a unit is a mention of slot "" for `merge` to place."""
    taken = [(machine.start, machine.end) for machine in machines] + model_names(reading.folded)
    found: list[Mention] = []
    for numeral in numerals:
        if any(start < numeral.end and numeral.start < end for start, end in taken) or not reading.states(
            numeral.start
        ):
            continue
        place = _Place(numeral, reading, reading.clause_at(numeral.start))
        if numeral.spelled and numeral.value == 1 and not (place.after(_GB_AFTER) or place.after(_MONEY_AFTER)):
            continue  # mostly an article or a pronoun
        for read in (_speed, _price, _context, _memory, _parameters, _bare):
            if (mention := read(place)) is not None:
                found.append(mention)
                break
    return list(_without_lower_ends(found, reading.folded))


def _without_lower_ends(found: list[Mention], folded: str) -> Iterator[Mention]:
    """Of "7 to 9B" only the upper end; bare numbers in front of a unit are lower ends or counts."""
    for place, mention in enumerate(found):
        after = found[place + 1] if place + 1 < len(found) else None
        if after is None or not _is_lower_end(mention, after, folded):
            yield mention


def _is_lower_end(mention: Mention, after: Mention, folded: str) -> bool:
    if mention.slot not in ("", after.slot) or after.slot == "min_context_tokens":
        return False
    joined = _RANGE.fullmatch(folded[mention.end : after.start]) is not None
    return joined and bool(mention.value <= after.value * (1 if mention.slot else 1e9))


def _speed(place: _Place) -> Mention | None:
    if place.says("rate_now", 60):
        return None
    if (match := place.after(_PER_MINUTE)) is not None:
        return place.mention("min_tokens_per_s", place.numeral.value / 60, match.end())
    match = place.after(_RATE_AFTER)
    if match is None and _RATE_BEFORE.search(place.before) and not place.after(_GB_AFTER) and not place.after(_K_AFTER):
        match = place.after(_TOKENS_AFTER) or place.after(_NOTHING)
    if match is None or (
        place.says("max", 40)
        and not place.says("min")
        and not place.says("max", 0)
        and _UPPER_RATE.search(place.before)
    ):
        return None
    return place.mention("min_tokens_per_s", place.numeral.value, match.end())


def _price(place: _Place) -> Mention | None:
    folded, numeral = place.reading.folded, place.numeral
    before, after = _MONEY_BEFORE.search(place.before), place.after(_MONEY_AFTER)
    if before is None and after is None:
        return None
    end = after.end() if after else numeral.end
    window = folded[max(place.clause.start, numeral.start - 50) : numeral.start] + "\0" + folded[end : place.clause.end]
    unit = _PER_TOKENS.search(folded, end, place.clause.end) or _PER_TOKENS.search(window)
    value = numeral.value / 100 if after is not None and after.group("cents") else numeral.value
    if unit is None:
        return place.mention("max_usd_per_mtok", value, end, "money")
    return place.mention("max_usd_per_mtok", value * 1000 if unit.group("thousand") else value, end)


def _context(place: _Place) -> Mention | None:
    if place.says("not_context") or _PER_TOKENS_BEFORE.search(place.before):
        return None
    numeral, tokens = place.numeral, place.after(_TOKENS_AFTER)
    thousands = place.after(_K_AFTER)
    k = bool(thousands) or (tokens is not None and bool(tokens.group("k")))
    about_context = bool(_CONTEXT.search(place.reading.folded, place.clause.start, place.clause.end))
    if tokens is None and not about_context:
        return None
    millions = about_context and place.after(_M_AFTER) is not None
    alone = tokens is None and not k and not millions
    if alone and (numeral.value < 512 or place.after(_UNIT) or _noun_follows(place)):
        return None
    value = numeral.value
    if k:
        value *= 1024 if value == int(value) and int(value) & (int(value) - 1) == 0 else 1000
    elif tokens is None and millions:
        value *= 1_000_000
    if value < 64:
        return None
    end = (tokens or thousands or place.after(_NOTHING)).end()  # type: ignore[union-attr]
    return place.mention("min_context_tokens", round(value), end)


def _memory(place: _Place) -> Mention | None:
    spoken = place.reading.languages
    scale, match = 1.0, place.after(_GB_AFTER)
    if match is None and place.after(_NETWORK) is None and not place.says("not_context"):
        match = place.after(_G_AFTER)
    if match is None and "fr" in spoken:
        match = place.after(_GO_AFTER)
    if match is None and (match := place.after(_MB_AFTER)) is not None:
        scale = 1 / 1024
    if match is None and (match := place.after(_TB_AFTER)) is not None:
        scale = 1024.0
    if match is None or place.numeral.value <= 0 or _EITHER.search(place.before):
        return None
    value = round(place.numeral.value * scale, 3)
    kind = _kind_of_memory(place, match.end())
    if kind == "" and place.reading.denied_before(place.numeral.start, 2):
        return None
    return None if kind == "other" else place.mention("memory_gb", value, match.end(), kind)


def _kind_of_memory(place: _Place, end: int) -> str:
    """What a size is of: "other" things than memory, "vram", "ram", a "cap" on the model, or "" where none says."""
    reading, start = place.reading, place.numeral.start
    right = min([place.clause.end, *(m.start() for m in _NEXT_SIZE.finditer(reading.folded, end, place.clause.end))])

    without_card = [hit for hit in reading.find("devices") if hit.key == "no_gpu"]

    def beside(cue: str, left_reach: int = 30, right_reach: int = 24) -> bool:
        return any(
            (end <= hit.start <= min(right, end + right_reach))
            or (0 <= start - hit.end <= left_reach and not _SIZE.search(reading.folded, hit.end, start))
            for hit in reading.said(cue, place.clause)
            if not any(none.start <= hit.start < none.end for none in without_card)
        )

    if (beside("storage", 12, 14) and not (beside("vram", 8, 10) or beside("ram", 8, 10))) or beside("data", 4, 26):
        return "other"
    capped = beside("cap", 40, 24) or beside("max", 30, 24)
    if beside("vram", 25, 16):
        return "cap" if beside("max", 30, 24) else "vram"
    if beside("ram", 14, 16) and not capped:
        return "ram"
    return "cap" if capped else ""


def _parameters(place: _Place) -> Mention | None:
    numeral, folded = place.numeral, place.reading.folded
    if _OF_MODELS.search(place.before):
        return None
    if (match := place.after(_B_AFTER)) is not None and numeral.value < 5000 and numeral.scale == 1:
        billions = numeral.value
    elif (match := place.after(_PARAMS_AFTER)) is not None and (numeral.value >= 1e6 or match.group("m")):
        billions = numeral.value / 1000 if match.group("m") else numeral.value / 1e9
    elif (
        numeral.scale >= 1e6
        and (
            place.after(_BARE_BILLIONS)
            or _PARAMS_NEAR.search(place.before)
            or (place.says("max", 40) and not _noun_follows(place))
        )
        and not _PER_TOKENS_BEFORE.search(place.before)
    ):
        match, billions = place.after(_NOTHING), numeral.value / 1e9
    elif (match := place.after(_M_AFTER)) is not None and (
        _PARAMS_NEAR.search(folded, place.clause.start, place.clause.end)
        or (place.says("max", 16) and numeral.value >= _SMALLEST_MODEL_M and not place.after(_M_TOKENS))
    ):
        billions = numeral.value / 1000
    else:
        return None
    if match is None or billions <= 0:
        return None
    return place.mention(
        "max_parameters_b", round(billions, 6), match.end(), "" if _is_upper_limit(place) else "no_limit"
    )


def _is_upper_limit(place: _Place) -> bool:
    """Whether the user sets this number as the most: by a word in its clause, in the short next one, or in a list."""
    if _NOT_MORE.search(place.before):
        return True
    if place.says("min", 25) and not place.says("max", 40):
        return False
    if place.says("max"):
        return True
    after = place.reading.next_clause(place.clause)
    return (
        after is not None
        and after.end - after.start < 40
        and bool(place.reading.said("max", after))
        and not re.search(r"\d", place.reading.folded[after.start : after.end])
    )


def _bare(place: _Place) -> Mention | None:
    """A number on its own: which slot it corrects, only the dialogue tells."""
    if (thousands := place.after(_K_AFTER)) is not None:
        value = place.numeral.value
        scale = 1024 if value == int(value) and int(value) & (int(value) - 1) == 0 else 1000
        return place.mention("", value * scale, thousands.end(), "k")
    if place.after(_UNIT) or _noun_follows(place) or place.numeral.value <= 0:
        return None
    return place.mention("", place.numeral.value, place.numeral.end)


def _noun_follows(place: _Place) -> bool:
    """Whether a word follows that the number counts."""
    word = place.after(_NEXT_WORD)
    return word is not None and word.group(1) not in _NOT_COUNTED
