"""Whether data must stay here, and whether the model will be trained. The phrases are in `data/policies.toml`."""

from __future__ import annotations

import re
from typing import Final

from assistant.clauses import Reading
from assistant.lexicon import Hit
from assistant.mention import Mention

_OWN: Final = re.compile(r"self[\s-]?$")


def local_only(reading: Reading) -> list[Mention]:
    """True where a turn says that nothing may leave or that it works offline, False where a cloud will do."""
    hits = _standing(reading, "cloud_topic")
    found = []
    for hit in hits:
        if hit.key not in ("local", "hosted", "cloud") or not reading.states(hit.start):
            continue
        value = _value(reading, hit)
        if value is not None:
            hard = not reading.wished(hit.start) or (value is False and hit.key != "local")
            found.append(Mention("local_only", value, hit.start, hit.end, hard, hit.key))
    return found


def _value(reading: Reading, hit: Hit) -> bool | None:
    if hit.key == "local":
        return None if _lifted(reading, hit) else True
    if _OWN.search(reading.folded[max(0, hit.start - 6) : hit.start]):
        return None
    if reading.denied(hit.start, hit.end):
        return True
    if hit.key == "hosted":
        return False
    clause = reading.clause_at(hit.start)
    accepts = reading.find("policies")
    if any(other.key == "accepts" and clause.holds(other.start) for other in accepts):
        return False
    return False if len(reading.folded[clause.start : clause.end].split()) <= 2 else None


_POSSIBLE: Final = re.compile(
    r"\b(?:is|are|would be|is also)\s+(?:possible|fine|ok|okay|an option)|(?:ist|ware) moglich|es posible|"
    r"est possible|e possivel"
)
_LIFTED: Final = re.compile(
    r"(?:not|n't|no longer|nicht|doch nicht|nie|nao|no|pas)\s+(?:\w+\s+){0,3}(?:needed|necessary|required|"
    r"have to|need to|notig|erforderlich|imprescindible|necesario|necessaire|obligatoire|konieczn\w+|"
    r"necessario|obrigatorio|matter)"
)


def _lifted(reading: Reading, hit: Hit) -> bool:
    """Whether the clause says that staying local is possible or not needed, rather than a rule."""
    clause = reading.clause_at(hit.start)
    said = reading.folded[clause.start : clause.end]
    return bool(_POSSIBLE.search(said) or _LIFTED.search(said))


def finetune(reading: Reading) -> list[Mention]:
    """True where a turn says that the model will be trained, False where it will not."""
    found = []
    for hit in _standing(reading, "training_topic"):
        if hit.key not in ("trains", "never_trains") or not reading.states(hit.start):
            continue
        if reading.undecided(hit.start) and hit.key == "trains":
            continue
        denied = hit.key == "never_trains" or reading.denied(hit.start, hit.end)
        found.append(Mention("finetune", not denied, hit.start, hit.end, not reading.wished(hit.start), hit.key))
    return found


def _standing(reading: Reading, topic: str) -> list[Hit]:
    """The phrases of a turn, the longest at each place, without those in a phrase about something else."""
    hits = reading.find("policies")
    topics = [hit for hit in hits if hit.key == topic]
    kept: list[Hit] = []
    for hit in sorted(hits, key=lambda hit: (hit.start, -hit.end)):
        if hit.key in ("accepts", "cloud_topic", "training_topic"):
            continue
        if any(other.start <= hit.start and hit.start < other.end for other in topics):
            continue
        if kept and hit.start < kept[-1].end and hit.end <= kept[-1].end:
            continue
        kept.append(hit)
    return kept
