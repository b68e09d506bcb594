from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sync.backoff import FIRST_PAUSE_S, interval_s, pause_s

CHANCE = st.floats(0, 1, exclude_max=True)


@given(st.integers(0, 10**6), st.floats(1, 1e6), CHANCE)
def test_a_pause_is_bounded_and_by_half_a_matter_of_chance(failures: int, longest_s: float, chance: float) -> None:
    """S4."""
    pause = pause_s(failures, longest_s, chance)
    full = min(longest_s, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 60)) if failures else 0
    assert full / 2 <= pause <= full <= longest_s


@given(st.integers(1, 100), CHANCE)
def test_pauses_double_until_the_longest(failures: int, chance: float) -> None:
    """S4."""
    sooner, later = pause_s(failures, 1e4, chance), pause_s(failures + 1, 1e4, chance)
    assert later == 2 * sooner or later == pause_s(99, 1e4, chance)
    assert pause_s(0, 1e4, chance) == 0


def test_nodes_that_failed_together_do_not_come_back_together() -> None:
    """S4."""
    pauses = {pause_s(5, 300, chance / 100) for chance in range(100)}
    assert len(pauses) == 100
    assert max(pauses) - min(pauses) > 15


@given(st.floats(0.001, 1e5), CHANCE)
def test_rounds_are_spread_around_the_usual_interval(usual_s: float, chance: float) -> None:
    """S3."""
    assert 0.9 * usual_s <= interval_s(usual_s, chance) <= 1.1 * usual_s * (1 + 1e-12)
    assert interval_s(usual_s, 0) < interval_s(usual_s, 0.9)
