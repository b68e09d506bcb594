"""What the texts are about: domains and subdomains, by words in `data/topics.toml`. Employers count less than texts."""

from __future__ import annotations

from typing import Final

from assistant.clauses import Reading
from assistant.lexicon import Hit
from assistant.mention import Mention

_EMPLOYER_WEIGHT: Final = (
    0.35  # "a nurse who codes": what is done outweighs who does it, and stands in where nothing else is said
)
_TASK_BONUS: Final = 0.5
_ANY_TRADE: Final = "retail/support"  # customers write to banks and airlines as well
_ANY_TRADE_WEIGHT: Final = 0.5
_TAKEN_OUT_WEIGHT: Final = 0.7  # what is taken out of texts says less of them than what they are
_GENERAL_WEIGHT: Final = 0.9


def topics(reading: Reading, tasks: list[Mention]) -> list[Mention]:
    """Every topic that a turn speaks of, as `domain` mentions whose `kind` is the subdomain or empty."""
    found = []
    for hit in _longest(reading.find("topics")):
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
    about_speaker = any(cue.start <= hit.start for cue in reading.said("employer", clause))
    weight = _EMPLOYER_WEIGHT if about_speaker else 1.0
    if hit.key == _ANY_TRADE:
        weight *= _ANY_TRADE_WEIGHT
    if any(thing.key == "entity" and thing.start <= hit.start < thing.end for thing in reading.find("tasks", "pair")):
        weight *= _TAKEN_OUT_WEIGHT
    if hit.key == "general":
        return _GENERAL_WEIGHT
    if any(sentence.holds(task.start) for task in tasks) and not about_speaker:
        weight += _TASK_BONUS
    return weight


def _longest(hits: list[Hit]) -> list[Hit]:
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
