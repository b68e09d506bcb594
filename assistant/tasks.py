"""What the model shall do, as one of the pipeline tags in `recommender.constraints`, by words in `data/tasks.toml`."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from assistant.clauses import Reading
from assistant.lexicon import Hit, longest
from assistant.mention import Mention

_STRONG: Final = 2.0
_WRITES: Final = 1.5  # stories, code and replies are also what other tasks read
_PAIR: Final = 3.0
_WEAK: Final = 0.5
_INTO: Final = re.compile(
    r"\s*(?:to|into|->|=>|>|→|nach|ins|al|vers|vers l[ea'] ?|na|para o|theke|到|译)\s*(?:the\s+|l')?"
)


def tasks(reading: Reading, named: list[Mention]) -> list[Mention]:
    """Every task that a turn speaks of and does not deny, with a weight; `named` are the languages that it names."""
    found = [*_strong(reading), *_extractions(reading), *_weak(reading), *_from_to(reading, named)]
    found = [mention for mention in found if reading.states(mention.start)]
    return sorted(found, key=lambda mention: mention.start)


def _strong(reading: Reading) -> list[Mention]:
    found = []
    for hit in longest(reading.find("tasks", "strong")):
        if _denied(reading, hit):
            found.append(Mention("task", hit.key, hit.start, hit.end, True, "denied", 0))
            continue
        weight = _WRITES if hit.key == "text-generation" else _STRONG
        found.append(Mention("task", hit.key, hit.start, hit.end, not reading.wished(hit.start), "strong", weight))
    return found


def _weak(reading: Reading) -> list[Mention]:
    return [
        Mention("task", hit.key, hit.start, hit.end, not reading.wished(hit.start), "weak", _WEAK)
        for hit in reading.find("tasks", "weak")
        if not _denied(reading, hit)
    ]


def _extractions(reading: Reading) -> list[Mention]:
    """A verb that takes out and a thing that is taken out, in one sentence: the verb is the mention."""
    hits = longest(reading.find("tasks", "pair"))
    things = [hit for hit in hits if hit.key == "entity"]
    found = []
    for verb in hits:
        if verb.key != "extraction" or _denied(reading, verb):
            continue
        sentence = reading.sentence_at(verb.start)
        near = [thing for thing in things if sentence.holds(thing.start) and abs(thing.start - verb.start) < 110]
        if near:
            found.append(
                Mention(
                    "task", "token-classification", verb.start, verb.end, not reading.wished(verb.start), "pair", _PAIR
                )
            )
    return found[:1]


def _from_to(reading: Reading, named: list[Mention]) -> list[Mention]:
    """One language into another, without a verb."""
    return [
        Mention("task", "translation", source.start, target.end, True, "strong", _STRONG)
        for source, target in pairwise(named)
        if _INTO.fullmatch(reading.folded[source.end : target.start])
    ]


def _denied(reading: Reading, hit: Hit) -> bool:
    return reading.denied_before(hit.start, 4)
