"""A language model's reading of a conversation, kept only where the user's words confirm it. The model is optional.

The model fills a JSON schema; for each slot it also quotes the words that say so. A slot is kept where our parser found
nothing, the quote stands in a turn, and our parser, reading the quote alone, finds the same value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from assistant.extract import extract
from recommender.constraints import SUBDOMAINS, Constraints, Span, Stated

Propose = Callable[[Sequence[str], Mapping[str, Any]], Mapping[str, Any]]

SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        slot: {
            "type": "object",
            "required": ["value", "quote"],
            "additionalProperties": False,
            "properties": {"value": {}, "quote": {"type": "string", "description": "the user's own words"}},
        }
        for slot in Constraints.model_fields
    },
}
"""What a proposal looks like: for each slot that was said, its value and the user's words for it."""


def extract_with(propose: Propose, turns: Sequence[str]) -> Constraints:
    """What our parser finds, and of `propose(turns, SCHEMA)` what it can confirm besides.

    A proposal that is not of the schema loses the slots that are not; nothing that the model writes raises an error.

    Raises:
        BadData: the conversation is too long.
    """
    found = extract(turns)
    proposed: object = propose(turns, SCHEMA)
    if not isinstance(proposed, Mapping):
        return found
    confirmed = {
        slot: stated
        for slot in Constraints.model_fields
        if getattr(found, slot) is None and (stated := _confirmed(slot, proposed.get(slot), turns)) is not None
    }
    domain = found.domain or confirmed.get("domain")
    if "subdomain" in confirmed and (domain is None or confirmed["subdomain"].value not in SUBDOMAINS[domain.value]):
        del confirmed["subdomain"]
    return found.model_copy(update=confirmed)


def _confirmed(slot: str, proposal: object, turns: Sequence[str]) -> Stated[Any] | None:
    """A proposed slot with its span in the turn that has the quote; None where our parser does not find it there."""
    if not isinstance(proposal, Mapping) or not isinstance(quote := proposal.get("quote"), str) or not quote.strip():
        return None
    turn = next((place for place, text in enumerate(turns) if quote in text), None)
    if turn is None:
        return None
    read: Stated[Any] | None = getattr(extract([quote]), slot)
    value = proposal.get("value")
    if read is None or read.value != (tuple(value) if isinstance(value, list) else value):
        return None
    start = turns[turn].index(quote)
    return read.model_copy(update={"span": Span(turn=turn, start=start, end=start + len(quote))})
