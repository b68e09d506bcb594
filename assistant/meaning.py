"""The task and domain of texts that use none of our words, by the nearest sentence of `data/meanings.toml`.

Nearness is the cosine of all-MiniLM-L6-v2's vectors, which knows English best. What it finds is a wish (`hard=False`):
it decides between models and spares a question, but no model is ruled out by a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from assistant.clauses import Piece, Reading
from assistant.extract import extract
from assistant.hearing import asks_for_model
from assistant.lexicon import load
from assistant.speech import spoken
from assistant.text import Text
from recommender.constraints import Constraints
from recommender.embed import Vectors

Embed = Callable[[Sequence[str]], Vectors]

NEAR: Final = 0.4  # both as `tests/benchmarks/assistant` found them: see ARCHITECTURE.md, decision 123
AHEAD: Final = 0.06
_NONE: Final = "none"


def extract_near(turns: Sequence[str], embed: Embed, *, asks: bool = False) -> Constraints:
    """What `extract` finds and, where that is no task, the task and domain nearest by meaning, as wishes.

    Nothing is guessed of who neither names a need nor asks for a model, unless it is known that they do (`asks`).

    Raises:
        BadData: the conversation is too long.
    """
    found = extract(turns)
    if found.task is not None or not (asks or any(found.stated()) or any(map(asks_for_model, turns))):
        return found
    pieces = [(text, piece) for place, turn in enumerate(turns) for text, piece in _sentences(turn, place)]
    if not pieces:
        return found
    vectors = embed([text.typed(piece.start, piece.end) for text, piece in pieces])
    wishes = {}
    for slot in ("task", "domain"):
        nearest = _nearest(vectors, *_meanings(slot, embed)) if getattr(found, slot) is None else None
        if nearest is not None:
            place, value = nearest
            text, piece = pieces[place]
            wishes[slot] = {"value": value, "hard": False, "span": text.span(piece.start, piece.end)}
    return found.model_copy(update=dict(Constraints.model_validate(wishes).stated()))


def _sentences(turn: str, place: int) -> list[tuple[Text, Piece]]:
    """The sentences of a turn in which nothing is denied or taken back: what is not wanted is as near as what is."""
    text = Text.of(turn, place)
    reading = Reading.of(text, spoken(text.folded), first=place == 0)
    cues = (*reading.cues.get("negator", ()), *reading.cues.get("retract", ()))
    return [
        (text, piece)
        for piece in reading.sentences
        if text.folded[piece.start : piece.end].strip() and not any(piece.holds(cue.start) for cue in cues)
    ]


@lru_cache(maxsize=4)
def _meanings(slot: str, embed: Embed) -> tuple[tuple[str, ...], Vectors]:
    """The value that each sentence of the file stands for, and the sentences' vectors."""
    sentences = [(value, sentence) for value, of_value in load("meanings")[slot].items() for sentence in of_value]
    return tuple(value for value, _ in sentences), embed([sentence for _, sentence in sentences])


def _nearest(vectors: Vectors, values: tuple[str, ...], meanings: Vectors) -> tuple[int, str] | None:
    """The place of the text that is nearest to a value, and the value; None where none is near, or two are."""
    known = list(dict.fromkeys(values))
    near = vectors @ meanings.T  # texts x sentences
    by_value = np.stack([near[:, [one == value for one in values]].max(axis=1) for value in known], axis=1)
    best, second = np.sort(by_value, axis=1)[:, :-3:-1].T
    sure = (best >= NEAR) & (best - second >= AHEAD)
    chosen = [known[place] for place in by_value.argmax(axis=1)]
    places = [place for place in np.flatnonzero(sure) if chosen[place] != _NONE]
    if not places:
        return None
    place = int(max(places, key=lambda one: best[one]))
    return place, chosen[place]
