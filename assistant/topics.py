"""What the texts are about: domains and subdomains, by words in `data/topics.toml`. Employers count less than texts."""

from __future__ import annotations

import re
from typing import Final

from assistant.clauses import Piece, Reading
from assistant.lexicon import Hit, longest
from assistant.mention import Mention

_EMPLOYER_WEIGHT: Final = (
    0.35  # "a nurse who codes": what is done outweighs who does it, and stands in where nothing else is said
)
_TASK_BONUS: Final = 0.5
_OTHER_MATTER: Final = re.compile(  # after one of these the speaker speaks of something else than themselves
    r"\b(?:i|we|my|our|its|about|need|needs|want|wants|and|busco|quiero|suche|brauche|cherche|szukam|preciso|quero)\b"
)
_SPEAKER_AFTER: Final = re.compile(
    r"'s\s|s'\s|\s+(?:\w+\s+){0,2}"
    r"(?:i work (?:for|at)|we work (?:for|at)|wants?\b|needs? (?:a|an|to|some|help)\b|would like|is looking)"
)
_SCHOOL_BONUS: Final = 0.1  # biology at school is school
_ANY_TRADE: Final = "retail/support"  # customers write to banks and airlines as well
_ANY_TRADE_WEIGHT: Final = 0.5
_TAKEN_OUT_WEIGHT: Final = 0.7  # what is taken out of texts says less of them than what they are
_GENERAL_WEIGHT: Final = 0.9


def topics(reading: Reading, tasks: list[Mention]) -> list[Mention]:
    """Every topic that a turn speaks of, as `domain` mentions whose `kind` is the subdomain or empty."""
    found = []
    for hit in longest(reading.find("topics")):
        if hit.key == "none":
            continue
        if not reading.states(hit.start) or reading.denied_before(hit.start, 2):
            continue
        domain, _, subdomain = hit.key.partition("/")
        found.append(
            Mention(
                "domain",
                domain,
                hit.start,
                hit.end,
                not reading.wished(hit.start),
                subdomain,
                _weight(reading, hit, tasks),
            )
        )
    return found


def _weight(reading: Reading, hit: Hit, tasks: list[Mention]) -> float:
    clause, sentence = reading.clause_at(hit.start), reading.sentence_at(hit.start)
    about_speaker = _names_speaker(reading, hit, clause)
    weight = _EMPLOYER_WEIGHT if about_speaker else 1.0
    if hit.key == "education/k12":
        weight += _SCHOOL_BONUS
    if hit.key == _ANY_TRADE:
        weight *= _ANY_TRADE_WEIGHT
    if any(thing.key == "entity" and thing.start <= hit.start < thing.end for thing in reading.find("tasks", "pair")):
        weight *= _TAKEN_OUT_WEIGHT
    if hit.key == "general":
        return _GENERAL_WEIGHT
    if any(sentence.holds(task.start) for task in tasks) and not about_speaker:
        weight += _TASK_BONUS
    return weight


def _names_speaker(reading: Reading, hit: Hit, clause: Piece) -> bool:
    """Whether a topic says who speaks: "I'm a nurse", "the bank I work for", "our airline wants"."""
    before = any(
        cue.start <= hit.start and not _OTHER_MATTER.search(reading.folded, cue.end, max(cue.end, hit.start))
        for cue in reading.said("employer", clause)
    )
    return before or _SPEAKER_AFTER.match(reading.folded, hit.end) is not None
