"""What a user needs, from what they wrote: each detector reads every turn, `merge` says what is in force at the end.

Deterministic, without a model of language: the same turns always give the same constraints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from assistant.clauses import Reading
from assistant.hardware import Machine, devices, machines
from assistant.languages import languages
from assistant.licences import licences
from assistant.mention import Mention
from assistant.merge import Dialogue
from assistant.numerals import numerals
from assistant.policies import finetune, local_only
from assistant.quantities import quantities
from assistant.speech import spoken
from assistant.spelling import corrected
from assistant.tasks import tasks
from assistant.text import Text
from assistant.topics import topics
from recommender.constraints import Constraints
from registry.errors import BadData

MAX_TURNS: Final = 200
MAX_CHARS: Final = 10_000  # of all turns together: nobody states a need in more, and the time grows with it
_CARD_REACH: Final = 24
_TOPICAL: Final = {"task", "domain", "subdomain", "languages"}


def extract(turns: Sequence[str]) -> Constraints:
    """The constraints in force after the last of the user's turns; wishes are soft (`hard=False`), all have their span.

    Raises:
        BadData: more than `MAX_TURNS` turns or `MAX_CHARS` characters.
    """
    if len(turns) > MAX_TURNS or sum(map(len, turns)) > MAX_CHARS:
        raise BadData(
            "the conversation is too long to read", hint=f"at most {MAX_TURNS} turns of {MAX_CHARS} characters together"
        )
    texts = [Text.of(turn, place) for place, turn in enumerate(turns)]
    tongues = spoken("\n".join(text.folded for text in texts))
    readings = [Reading.of(corrected(text, tongues), tongues, first=text.turn == 0) for text in texts]
    dialogue = Dialogue()
    for reading in readings:
        dialogue.hear(reading, list(mentions(reading)))
    found = dialogue.constraints()
    return Constraints() if _off_topic(readings, found) else found


def mentions(reading: Reading) -> Iterator[Mention]:
    """What one turn says, slot by slot."""
    counted = numerals(reading.folded, reading.languages)
    named = machines(reading, counted)
    sizes = quantities(reading, counted, named)
    yield from devices(reading, named)
    yield from _memory_of_cards(reading, named, sizes)
    tongues = languages(reading)
    yield from tongues
    yield from licences(reading)
    yield from local_only(reading)
    yield from finetune(reading)
    work = tasks(reading, tongues)
    yield from work
    yield from topics(reading, work)


def _memory_of_cards(reading: Reading, named: list[Machine], sizes: list[Mention]) -> Iterator[Mention]:
    """Sizes beside a card are its memory, times the cards in use; a card without one brings what its name implies."""
    beside: set[int] = set()
    for size in sizes:
        card = next((one for one in named if _is_beside(reading, one, size)), None)
        if card is not None:
            beside.add(card.start)
            yield Mention("memory_gb", size.value * card.cards, size.start, size.end, size.hard, "card")
        else:
            yield size
    for card in named:
        if card.start not in beside and card.memory_gb is not None and not reading.denied_before(card.start, 3):
            hard = not reading.wished(card.start)
            yield Mention("memory_gb", card.memory_gb * card.cards, card.start, card.end, hard, "implied")


def _is_beside(reading: Reading, card: Machine, size: Mention) -> bool:
    if size.slot != "memory_gb" or size.kind not in ("", "vram") or card.product.device not in ("cuda", "other"):
        return False
    gap = size.start - card.end if size.start >= card.end else card.start - size.end
    return gap <= _CARD_REACH and reading.sentence_at(card.start) == reading.sentence_at(size.start)


def _off_topic(readings: list[Reading], found: Constraints) -> bool:
    """Whether nobody asks for a model here: a thing to be done at once, or a question that only touches a topic."""
    slots = {slot for slot, _ in found.stated()}
    if not slots or slots - _TOPICAL:
        return False
    asks_for_model = any(reading.cues.get("need") for reading in readings)
    if any(reading.cues.get("direct") for reading in readings):
        return not any(reading.cues.get("model") for reading in readings)
    return not asks_for_model and "task" not in slots and any("?" in reading.folded for reading in readings)
