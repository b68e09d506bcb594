"""What can be no model is refused."""

from __future__ import annotations

from typing import Any

import pytest

from recommender.candidate import Candidate
from registry.errors import BadData


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": ""},
        {"id": "a" * 301},
        {"kind": "oracle"},
        {"source": "hearsay"},
        {"parameters_b": -1.0},
        {"parameters_b": float("nan")},
        {"price_usd_per_mtok": float("inf")},
    ],
)
def test_what_can_be_no_model_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadData):
        Candidate(**{"id": "a/b", "source": "table", "kind": "generative"} | wrong)


def test_unknown_facts_stay_unknown() -> None:
    candidate = Candidate("a/b", "table", "generative")
    assert candidate.parameters_b is None and candidate.commercial is None and candidate.languages == ()
