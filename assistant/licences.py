"""Which licence a user must have: a name as an SPDX identifier, or "commercial" for any that lets its user sell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from license_expression import get_spdx_licensing  # type: ignore[import-untyped]

from assistant.clauses import Reading
from assistant.lexicon import Hit, Lexicon, load
from assistant.mention import Mention

_IDENTIFIER: Final = re.compile(r"\b[a-z]{2,10}(?:-[a-z0-9.]{1,10}){1,4}\b")
_OTHER_GOODS: Final = re.compile(
    r"\b(?:we|i|who|that|which|they)\s+(?:also\s+)?(?:sell|bill|ship)\s+(?!it\b|this\b|the\s+(?:model|"
    r"result|product|app|tool|output|bot|thing)|access|what|our\s+(?:product|app|tool|service|software)|"
    r"to\b|on\b)"
)
_ALTERNATIVE: Final = re.compile(r"\s*(?:or|oder|o|ou|lub|albo|或|或者|/|বা)\s+")


@lru_cache(maxsize=1)
def _named() -> Lexicon:
    return Lexicon(load("licences")["named"]["any"])


def licences(reading: Reading) -> list[Mention]:
    """The licences that a turn asks for; a name weighs more than "commercial"."""
    found = [*_by_name(reading), *_commercial(reading)]
    return [mention for mention in found if reading.states(mention.start)]


def _by_name(reading: Reading) -> Iterator[Mention]:
    folded = reading.folded
    others = reading.find("licences")
    programs = [hit for hit in others if hit.key == "not_licence"]
    spoken_of = [hit for hit in others if hit.key == "spoken_of"]
    end = 0
    for hit in sorted([*_named().find(folded), *_identifiers(folded)], key=lambda hit: (hit.start, -hit.end)):
        if hit.start < end or any(other.start <= hit.start < other.end for other in programs):
            continue
        if folded[hit.start : hit.end] == "mit" and not _is_licence(reading, hit, spoken_of):
            continue
        end = hit.end
        if reading.denied(hit.start, hit.end) and not _ONLY.search(folded, hit.end, reading.clause_at(hit.start).end):
            continue
        yield Mention("license", hit.key, hit.start, hit.end, not reading.wished(hit.start), "named", 2)


_ONLY: Final = re.compile(r"\s*(?:or nothing|or no|o nada|oder nichts|oder gar nicht|ou rien|albo nic|ou nada)")


def _is_licence(reading: Reading, hit: Hit, spoken_of: list[Hit]) -> bool:
    """Whether "mit" is the licence: in capitals, or beside a word for licences where it is not German for "with"."""
    if reading.text.typed(hit.start, hit.end) == "MIT":
        return True
    if "de" in reading.languages:
        return False
    clause = reading.clause_at(hit.start)
    return any(clause.holds(other.start) for other in spoken_of) or bool(reading.said("hedge", clause))


def _identifiers(folded: str) -> Iterator[Hit]:
    """SPDX identifiers that are spelled out, as "bsd-4-clause"."""
    for match in _IDENTIFIER.finditer(folded):
        if known := _spdx().get(match.group()):
            yield Hit(match.start(), match.end(), known)


@lru_cache(maxsize=1)
def _spdx() -> dict[str, str]:
    return {key.lower(): key for key in get_spdx_licensing().known_symbols if "-" in key}


def _commercial(reading: Reading) -> Iterator[Mention]:
    hits = reading.find("licences")
    others = [hit for hit in hits if hit.key == "not_commercial"]
    for hit in hits:
        if hit.key != "commercial" or any(other.start <= hit.start < other.end for other in others):
            continue
        if _OTHER_GOODS.search(reading.folded[max(0, hit.start - 12) : hit.end + 30]) or reading.denied_before(
            hit.start
        ):
            continue
        yield Mention("license", "commercial", hit.start, hit.end, not reading.wished(hit.start), "commercial", 1)
