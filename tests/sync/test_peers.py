from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadData, LocalFailure
from registry.store import Store
from registry.tables import PeerStateRow
from sync.meter import Meter, OverBudget
from sync.peers import (
    KEPT_ERRORS,
    Allowance,
    errors_of,
    meter_of,
    note_failure,
    note_offer,
    note_success,
    note_taken,
    peer_state,
    taken,
    why_not_now,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ALLOWED = Allowance(bytes_per_day=1_000, requests_per_day=10, round_s=60, longest_pause_s=300)


def row() -> PeerStateRow:
    return PeerStateRow(key_id="1" * 64)


def used(moved: int = 0, requests: int = 0) -> Meter:
    meter = Meter(max_bytes=1 << 30, requests=1 << 30, seconds=1e9)
    meter.moved_bytes, meter.requests = moved, requests
    return meter


def test_a_peer_that_nothing_is_known_of_may_be_contacted() -> None:
    assert why_not_now(row(), ALLOWED, NOW) == ""


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.floats(0, 1, exclude_max=True))
def test_a_peer_that_fails_is_left_alone_for_longer_and_a_success_ends_that(went: list[bool], chance: float) -> None:
    """S4, with a clock that is passed in."""
    state, now = row(), NOW
    for well in went:
        if well:
            note_success(state, now)
            assert (state.failures, state.retry, why_not_now(state, ALLOWED, now)) == (0, None, "")
            continue
        note_failure(state, LocalFailure("down", "wait"), ALLOWED.longest_pause_s, chance, now)
        assert state.retry is not None
        assert now < state.retry <= now + timedelta(seconds=ALLOWED.longest_pause_s)
        assert f"failed {state.failures} times" in why_not_now(state, ALLOWED, now)
        now = state.retry
        assert why_not_now(state, ALLOWED, now) == ""
    assert len(errors_of(state)) == min(KEPT_ERRORS, went.count(False))


def test_a_wait_that_a_wrong_clock_wrote_does_not_hold() -> None:
    """S4."""
    state = row()
    note_failure(state, BadData("nonsense"), 300, 0.5, NOW + timedelta(days=400))
    assert why_not_now(state, ALLOWED, NOW) == ""


@pytest.mark.parametrize(("moved", "requests"), [(1_000, 1), (1, 10)])
def test_a_peer_that_has_had_its_share_waits_for_the_next_day(moved: int, requests: int) -> None:
    """S5."""
    state = row()
    note_taken(state, used(moved - 1, requests - 1), NOW)
    assert why_not_now(state, ALLOWED, NOW) == ""
    note_taken(state, used(1, 1), NOW + timedelta(hours=1))
    assert "more from 02 Mar 12:00 UTC on" in why_not_now(state, ALLOWED, NOW + timedelta(hours=23))
    assert why_not_now(state, ALLOWED, NOW + timedelta(hours=24)) == ""
    assert taken(state, NOW + timedelta(hours=24)) == (0, 0)


def test_the_next_round_gets_what_is_left() -> None:
    """S5."""
    state = row()
    note_taken(state, used(990, 9), NOW)
    meter = meter_of(state, ALLOWED, NOW)
    with meter.request():
        meter.moved(10)
        with pytest.raises(OverBudget, match="1 requests, all that one may have"):
            meter.moved(1)
    with pytest.raises(OverBudget), meter.request():
        pass


def test_requests_of_a_round_end_with_its_time() -> None:
    """S5."""
    moments = iter([0.0, 59.0, 100.0, 101.0])
    meter = Meter(max_bytes=9, requests=9, seconds=60, clock=lambda: next(moments))
    with meter.request():
        pass
    assert meter.left_s == 1
    with meter.request():
        pass
    with pytest.raises(OverBudget, match="60 s of this round"), meter.request():
        pass
    assert (meter.requests, meter.left_s) == (2, 0)


def test_having_had_its_share_is_no_failure() -> None:
    """S5: the peer did nothing wrong."""
    state = row()
    note_failure(state, OverBudget("enough", "wait"), 300, 0.5, NOW)
    assert (state.failures, state.retry) == (0, None)
    assert [error["message"] for error in errors_of(state)] == ["enough"]


def test_since_when_a_node_lies_behind() -> None:
    state, later = row(), NOW + timedelta(hours=1)
    note_offer(state, {"en": 2}, behind=True, now=NOW)
    note_offer(state, {"en": 3}, behind=True, now=later)
    assert (state.behind, state.offered) == (NOW, '{"en": 3}')
    note_offer(state, {"en": 3}, behind=False, now=later)
    assert state.behind is None


def test_what_is_remembered_outlives_the_process(store: Store) -> None:
    with store.transaction() as session:
        state = peer_state(session, "1" * 64)
        note_failure(state, LocalFailure("down", "wait"), 300, 0.5, NOW)
        note_taken(state, used(7, 2), NOW)
    with store.transaction() as session:
        again = peer_state(session, "1" * 64)
        assert (again.failures, taken(again, NOW), errors_of(again)[0]["hint"]) == (1, (7, 2), "wait")
