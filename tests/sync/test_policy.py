from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.policy import (
    POLICIES,
    PolicySettings,
    PolicyState,
    Waiting,
    after_time,
    always,
    buffered,
    by_drift,
    by_event,
    by_gain,
    by_gain_per_byte,
    by_samples,
    by_staleness,
    every_n,
    first_of,
    lazily,
    never,
    oracle,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SETTINGS = PolicySettings(
    updates=3, wait_s=60, samples=500, senders=2, weight=2, drift=3, event=2, lazy=0.5, points=10, points_per_mb=2
)


def one(waited_s: float = 0, issuer: str = "a", **facts: object) -> Waiting:
    return Waiting(NOW - timedelta(seconds=waited_s), issuer, **facts)  # type: ignore[arg-type]


def state(*waiting: Waiting, **facts: object) -> PolicyState:
    return PolicyState(now=NOW, waiting=waiting, **facts)  # type: ignore[arg-type]


LARGE, SMALL = one(norm=4.0), one(norm=1.0)
USUAL = {"recent": (1.0, 2.0, 3.0)}


@pytest.mark.parametrize(
    ("policy", "waiting", "release", "reason"),
    [
        (every_n, state(one(), one()), False, "2 of 3 accepted updates"),
        (every_n, state(one(), one(), one()), True, "3 of 3 accepted updates"),
        (every_n, state(one(), children=1), True, "1 of 1 accepted updates"),
        (every_n, state(one(), children=2), False, "1 of 2 accepted updates"),
        (every_n, state(one(), one(), children=9), False, "2 of 3 accepted updates"),
        (every_n, state(children=1), False, "no accepted update waits"),
        (buffered, state(one(), children=1), True, "1 of 1 different senders"),
        (after_time, state(one(59.5), one(2)), False, "59.5 of 60 seconds since the first accepted update"),
        (after_time, state(one(1), one(60)), True, "60 of 60 seconds since the first accepted update"),
        (after_time, state(one(-3600)), False, "0 of 60 seconds since the first accepted update"),
        (by_samples, state(one(rows=499)), False, "499 of 500 training rows, as claimed"),
        (by_samples, state(one(rows=300), one(rows=200)), True, "500 of 500 training rows, as claimed"),
        (buffered, state(one(), one(), one()), False, "1 of 2 different senders"),
        (buffered, state(one(), one(issuer="b")), True, "2 of 2 different senders"),
        (by_staleness, state(one(), one(behind=3)), False, "1.5 of 2 updates, each weighed by its staleness"),
        (by_staleness, state(one(), one(behind=3), one(behind=3)), True, "2 of 2 updates, each .*"),
        (by_drift, state(LARGE, SMALL, **USUAL), False, "2.5 of 3 usual changes of all waiting updates together"),
        (by_drift, state(LARGE, SMALL, SMALL, **USUAL), True, "3 of 3 usual changes .*"),
        (by_drift, state(one(), **USUAL), False, "0 of 3 usual changes .*"),
        (by_event, state(SMALL, SMALL, SMALL, **USUAL), False, "0.5 of 2 times the usual change by one update"),
        (by_event, state(SMALL, LARGE, **USUAL), True, "2 of 2 times the usual change by one update"),
        (lazily, state(SMALL, **USUAL), False, "0.2143 of 0.5 of the squared change of the last releases"),
        (lazily, state(LARGE, SMALL, **USUAL), True, "1.339 of 0.5 .*"),
        *[(p, state(one()), True, "1 of 1 accepted updates, as there is .*") for p in (by_drift, by_event, lazily)],
        (by_gain, state(one(points=6), one(points=3), one()), False, "9 of 10 points gained, as measured here"),
        (by_gain, state(one(points=6), one(points=-50), one(points=4)), True, "10 of 10 points .*"),
        (by_gain_per_byte, state(one(points=9), release_bytes=5_000_000), False, "1.8 of 2 points .* MB .*"),
        (by_gain_per_byte, state(one(points=9), release_bytes=4_500_000), True, "2 of 2 points .* MB .*"),
        (always, state(one()), True, "1 of 1 accepted updates"),
        (never, state(one(1e9), one()), False, "2 accepted updates wait, and the policy is never"),
        (oracle, state(one(), oracle=True), True, "what the simulation knows to be best"),
        (oracle, state(one()), False, "what the simulation knows to be best"),
        (first_of(every_n, after_time), state(one(10)), False, "1 of 3 .*; 10 of 60 .*"),
        (first_of(every_n, after_time), state(one(61)), True, "61 of 60 seconds .*"),
    ],
)
def test_a_policy_decides_and_says_why(policy, waiting, release, reason) -> None:  # type: ignore[no-untyped-def]
    """G1."""
    decision = policy(waiting, SETTINGS)
    assert (decision.release, bool(re.fullmatch(reason, decision.reason))) == (release, True), decision.reason


WAITING = st.builds(
    Waiting,
    since=st.integers(0, 10**7).map(lambda s: NOW - timedelta(seconds=s)),
    issuer=st.sampled_from("abc"),
    behind=st.integers(0, 9),
    rows=st.integers(0, 2**53),
    norm=st.none() | st.floats(0, 1e6),
    points=st.none() | st.floats(-100, 100),
)


@pytest.mark.parametrize("name", POLICIES)
@given(recent=st.lists(st.floats(0, 1e6), max_size=5), knows=st.booleans())
def test_nothing_is_released_from_nothing(name: str, recent: list[float], knows: bool) -> None:
    """G1."""
    for policy in (POLICIES[name], oracle):
        decision = policy(state(recent=tuple(recent), oracle=knows), SETTINGS)
        assert not decision.release
        assert decision.again is None


@pytest.mark.parametrize("name", sorted(POLICIES.keys() - {"never"}))
@given(waiting=st.lists(WAITING, min_size=1, max_size=6), recent=st.lists(st.floats(0, 1e6), max_size=5))
def test_no_update_waits_for_ever_and_a_reason_is_always_given(
    name: str, waiting: list[Waiting], recent: list[float]
) -> None:
    """G1: it is said when time alone changes the answer, and then it does."""
    now = state(*waiting, recent=tuple(recent))
    decision = POLICIES[name](now, SETTINGS)
    assert decision.reason
    if not decision.release:
        assert decision.again is not None
        assert NOW < decision.again <= NOW + timedelta(seconds=SETTINGS.wait_s)
        assert POLICIES[name](replace(now, now=decision.again + timedelta(milliseconds=1)), SETTINGS).release


@given(st.lists(WAITING, min_size=1, max_size=6), WAITING)
def test_what_a_sender_claims_moves_the_samples_alone(waiting: list[Waiting], liar: Waiting) -> None:
    """Rows are the one figure that its sender claims; no other policy reads it."""
    honest, lying = (state(*waiting, replace(liar, rows=rows), recent=(1.0,)) for rows in (0, 2**53))
    for name in POLICIES.keys() - {"samples"}:
        assert POLICIES[name](honest, SETTINGS) == POLICIES[name](lying, SETTINGS)
