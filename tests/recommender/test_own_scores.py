"""Scores on scales of their own: how far they speak for a need, and how two models compare by them."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommender.candidate import Candidate
from recommender.constraints import Constraints
from recommender.expected import with_own
from recommender.own_scores import OwnScore, difference, estimate
from recommender.rank import Quality

NOW = datetime(2026, 11, 21, tzinfo=UTC)
BANKING = OwnScore(
    model="en/finance",
    benchmark="rows",
    task="intent",
    languages=("en",),
    domains=("finance", "banking"),
    score=81.0,
    rows=300,
    here=True,
    source="this node",
    measured=NOW,
)
PRIOR = (40.0, 10.0, 70.0)


def need(**said: object) -> Constraints:
    return Constraints.model_validate({slot: {"value": value} for slot, value in said.items()})


SORTING = need(task="text-classification", languages=("en",), domain="finance", subdomain="banking")


def test_rows_of_the_need_itself_are_its_measurement() -> None:
    found = estimate(BANKING, SORTING, *PRIOR)
    assert found is not None
    assert (found.mean, found.near) == (81.0, 1.0)
    assert (found.low, found.high) == pytest.approx((77.0, 84.5), abs=0.3)  # Wilson, 90 %, 243 of 300
    told = estimate(replace(BANKING, half_width=4.0), SORTING, *PRIOR)
    assert told is not None
    assert (told.low, told.high) == pytest.approx((81 - 3.36, 81 + 3.36), abs=0.01)


@pytest.mark.parametrize(
    "said",
    [
        {"task": "text-classification", "languages": ("de",), "domain": "finance", "subdomain": "banking"},
        {"task": "text-classification", "languages": ("en",), "domain": "finance", "subdomain": "insurance"},
        {"task": "text-classification", "languages": ("en",), "domain": "finance"},
        {"task": "text-classification", "languages": ("en",)},
        {"languages": ("en",), "domain": "finance", "subdomain": "banking"},
    ],
)
def test_a_need_beside_the_rows_moves_towards_the_score_and_stays_in_doubt(said: dict[str, object]) -> None:
    direct, found = estimate(BANKING, SORTING, *PRIOR), estimate(BANKING, need(**said), *PRIOR)
    assert direct is not None and found is not None
    assert PRIOR[0] < found.mean < direct.mean
    assert direct.high - direct.low < found.high - found.low <= PRIOR[2] - PRIOR[1]
    assert 0 < found.near < 1


@pytest.mark.parametrize(
    "said",
    [
        {"task": "text-classification", "languages": ("en",), "domain": "health"},
        {"task": "summarization", "languages": ("en",), "domain": "finance"},
        {"task": "translation"},
    ],
)
def test_of_another_field_or_form_of_answer_a_score_says_nothing(said: dict[str, object]) -> None:
    assert estimate(BANKING, need(**said), *PRIOR) is None


def test_a_part_of_a_field_that_no_need_can_name_is_as_if_not_said() -> None:
    cards = estimate(replace(BANKING, domains=("finance", "cards")), SORTING, *PRIOR)
    insured = estimate(replace(BANKING, domains=("finance", "insurance")), SORTING, *PRIOR)
    assert cards is not None and insured is not None
    assert insured.near < cards.near < 1


@given(st.floats(0, 100), st.integers(1, 10_000), st.floats(0, 100), st.floats(0, 100))
def test_an_estimate_lies_in_its_interval_and_on_the_scale(score: float, rows: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    for asked in (SORTING, need(task="text-classification", domain="finance")):
        found = estimate(replace(BANKING, score=score, rows=rows), asked, (low + high) / 2, low, high)
        assert found is not None
        assert 0 <= found.low <= found.mean + 1e-9 and found.mean - 1e-9 <= found.high <= 100


def test_what_nothing_else_is_known_of_has_its_score_alone() -> None:
    nothing = (math.nan, math.nan, math.nan)
    direct = estimate(BANKING, SORTING, *nothing)
    beside = estimate(BANKING, need(task="text-classification", domain="finance"), *nothing)
    assert direct is not None and beside is not None
    assert direct.mean == 81.0
    assert beside.high - beside.low > 30


def test_models_that_were_asked_the_same_rows_are_compared_row_by_row() -> None:
    right = tuple(number % 5 > 0 for number in range(100))
    worse = tuple(good and number % 4 > 0 for number, good in enumerate(right))
    one = replace(BANKING, rows=100, score=80.0, right=right)
    other = replace(BANKING, rows=100, score=100 * sum(worse) / 100, right=worse)
    paired = difference([one], [other])
    apart = difference([replace(one, right=None)], [replace(other, right=None)])
    assert paired is not None and apart is not None
    assert paired.points == apart.points == 20.0
    assert 0 < paired.low < 20 < paired.high
    assert paired.high - paired.low < apart.high - apart.low
    assert difference([one], [replace(other, benchmark="other rows")]) is None
    assert difference([], [other]) is None


def test_the_nearest_own_surest_newest_score_counts() -> None:
    general = replace(BANKING, domains=("general",), score=20.0, rows=5_000)
    signed = replace(BANKING, here=False, score=90.0, rows=5_000)
    older = replace(BANKING, score=60.0, measured=NOW - timedelta(days=9))
    models = [Candidate(name, "tree", "generative") for name in ("en/finance", "en/other")]

    def sizes_say(candidates: object, _: Constraints) -> Quality:
        return Quality(*(np.full(2, value) for value in PRIOR), ["metadata only"] * 2)

    found = with_own(sizes_say, [general, older, signed, BANKING], {"en/other": 1.5})(models, SORTING)
    assert found.mean.tolist() == [81.0, 40.0]
    assert list(found.grade) == ["measured here", "metadata only"]
    assert found.own[0][0] == BANKING and 1 not in found.own
    assert found.liked == {1: 1.5}
    elsewhere = with_own(sizes_say, [signed])(models, SORTING)
    assert list(elsewhere.grade) == ["measured elsewhere", "metadata only"]
    german = need(task="text-classification", languages=("de",), domain="finance", subdomain="banking")
    assert with_own(sizes_say, [BANKING])(models, german).grade[0] == "same task other language"
