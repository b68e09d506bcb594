from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.gate import ONE_SIDED_95, check_gain, check_loss, points_lost

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80)


def outcome(kept: int, lost: int, won: int, wrong: int) -> tuple[list[bool], list[bool]]:
    """Rows right before and after, so many of each kind."""
    before = [True] * kept + [True] * lost + [False] * won + [False] * wrong
    after = [True] * kept + [False] * lost + [True] * won + [False] * wrong
    return before, after


@given(PAIRS)
def test_the_error_is_that_of_paired_differences(pairs: list[tuple[bool, bool]]) -> None:
    before, after = ([pair[side] for pair in pairs] for side in (0, 1))
    differences = [int(b) - int(a) for b, a in pairs]
    lost, error = points_lost(before, after)
    assert lost == pytest.approx(100 * statistics.fmean(differences))
    assert error == pytest.approx(100 * statistics.pstdev(differences) / math.sqrt(len(pairs)), abs=1e-6)
    assert points_lost(after, before) == (pytest.approx(-lost), pytest.approx(error))


def test_rows_that_change_both_ways_are_uncertain_and_lose_nothing() -> None:
    lost, error = points_lost(*outcome(80, 10, 10, 0))
    assert lost == 0
    assert error == pytest.approx(100 * math.sqrt(0.2 / 100))
    assert points_lost(*outcome(80, 0, 0, 20)) == (0.0, 0.0)


def test_rows_of_two_lengths_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="shorter"):
        points_lost([True, True], [True])


@pytest.mark.parametrize(
    ("lost", "won", "max_points", "passed"),
    [
        (0, 0, 0.0, True),
        (0, 50, 0.0, True),
        (10, 0, 1.0, True),  # 1 point of 1000 rows, allowed outright
        (12, 0, 1.0, True),  # within the sampling error of 0.57 points
        (20, 0, 1.0, False),
        (20, 0, 5.0, True),
        (60, 40, 1.0, True),  # 2 points lost, but so many changed that it may be chance
        (100, 40, 1.0, False),
    ],
)
def test_old_knowledge_may_be_lost_within_the_limit_and_the_sampling_error(
    lost: int, won: int, max_points: float, passed: bool
) -> None:
    """G3."""
    before, after = outcome(700 - lost, lost, won, 300 - won)
    found = check_loss("gate.known", before, after, max_points, 12.5)
    _, error = points_lost(before, after)
    assert found.passed is passed
    assert found.value == pytest.approx((lost - won) / 10)
    assert found.threshold == pytest.approx(max_points + ONE_SIDED_95 * error)
    assert (found.name, found.cost_ms) == ("gate.known", 12.5)
    assert f"70.0 % right before, {(700 - lost + won) / 10:.1f} % after on 1000 rows" in found.reason


@pytest.mark.parametrize(
    ("won", "lost", "claimed", "passed"),
    [
        (80, 0, 0.8, True),
        (72, 0, 0.8, True),
        (68, 0, 0.8, True),  # 85 % of the claim, 90 % less the sampling error asked for
        (40, 0, 0.8, False),
        (0, 0, 0.8, False),
        (0, 20, 0.8, False),
        (20, 0, 0.1, True),  # more than was claimed
    ],
)
def test_new_knowledge_must_arrive(won: int, lost: int, claimed: float, passed: bool) -> None:
    """G4."""
    before, after = outcome(20 - lost, lost, won, 80 - won)
    found = check_gain("gate.gain", before, after, [True] * len(before), claimed, 0.9)
    _, error = points_lost(before, after)
    assert found.passed is passed
    assert found.value == pytest.approx((won - lost) / 100 / claimed)
    assert found.threshold == pytest.approx(0.9 - ONE_SIDED_95 * error / 100 / claimed)


def test_without_rows_or_a_claim_the_gate_says_so_and_lets_pass() -> None:
    loss = check_loss("gate.known", [], [], 1.0)
    assert (loss.passed, loss.value, loss.threshold) == (True, None, 1.0)
    assert loss.reason == "no rows to measure it on"
    gain = check_gain("gate.gain", [], [], [], 0.5, 0.9)
    assert (gain.passed, gain.value, gain.threshold) == (True, None, 0.9)
    assert gain.reason == "there are no rows to measure it on"
    for claimed in (0.0, -0.1):
        unclaimed = check_gain("gate.gain", [True, False], [False, False], [True, True], claimed, 0.9)
        assert (unclaimed.passed, unclaimed.value) == (True, None)
        assert unclaimed.reason == "the update claims no gain"
