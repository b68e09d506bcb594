"""What voices are worth: little, bounded, one for each speaker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommender.feedback import MOST_POINTS, Voice, liked
from recommender.rank import WISH_POINTS

VOICES = st.builds(
    Voice, st.sampled_from(["a", "b"]), st.text("xyz", max_size=3), st.none() | st.integers(min_value=1, max_value=5)
)


@given(st.lists(VOICES, max_size=60))
def test_voices_never_outweigh_a_wish(voices: list[Voice]) -> None:
    assert all(abs(points) < MOST_POINTS < WISH_POINTS for points in liked(voices).values())


def test_one_speaker_is_one_voice_however_often_it_speaks() -> None:
    once, often = [Voice("m", "x", 5)], [Voice("m", "x", 5), Voice("m", "x")] * 20
    assert liked(often) == liked(once)
    many = [Voice("m", str(number), 5) for number in range(20)]
    assert liked(many)["m"] > liked(once)["m"] > 0


@pytest.mark.parametrize(("rating", "sign"), [(1, -1), (2, -1), (3, 0), (4, 1), (5, 1), (None, 1)])
def test_a_rating_raises_or_lowers(rating: int | None, sign: int) -> None:
    points = liked([Voice("m", "x", rating)])["m"]
    assert (points > 0) - (points < 0) == sign


def test_a_clone_is_worth_less_than_praise() -> None:
    assert 0 < liked([Voice("m", "x")])["m"] < liked([Voice("m", "x", 4)])["m"]
