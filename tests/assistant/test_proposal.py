"""A model may propose; only the user's words confirm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from assistant.extract import extract
from assistant.proposal import SCHEMA, extract_with
from recommender.constraints import Constraints, Span

TURNS = ["Thesis help, what does it mean to summarise? How many GB has 8 GB of RAM?", "at most 3B"]
"""The question states nothing to the parser; a model may find that it does."""


def proposing(proposal: Mapping[str, Any]) -> Constraints:
    """What is found when a model proposes this."""

    def propose(turns: Sequence[str], schema: Mapping[str, Any]) -> Mapping[str, Any]:
        assert turns == TURNS
        assert schema is SCHEMA
        return proposal

    return extract_with(propose, TURNS)


def test_a_quoted_value_that_the_parser_confirms_is_kept() -> None:
    assert extract(TURNS).memory_gb is None
    found = proposing({"memory_gb": {"value": 8, "quote": "8 GB of RAM"}}).memory_gb
    assert found is not None
    assert found.value == 8
    assert found.span == Span(turn=0, start=61, end=72)


@pytest.mark.parametrize(
    "proposal",
    [
        {"memory_gb": {"value": 16, "quote": "8 GB of RAM"}},
        {"memory_gb": {"value": 16, "quote": "16 GB of RAM"}},
        {"memory_gb": {"value": 8, "quote": ""}},
        {"memory_gb": 8},
        {"memory_gb": {"value": 8}},
        {"task": {"value": ["summarization"], "quote": TURNS[1]}},
        {"max_parameters_b": {"value": 70, "quote": "at most 3B"}},
        {"subdomain": {"value": "oncology", "quote": "help"}},
        {"nonsense": None},
        [],
    ],
)
def test_what_is_not_confirmed_is_dropped(proposal: Mapping[str, Any]) -> None:
    assert proposing(proposal) == extract(TURNS)
