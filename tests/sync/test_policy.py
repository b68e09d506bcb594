from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.documents import Adapter, AdapterShape, Evaluation, File, ReleasePin, Update
from sync.policy import POLICIES, PolicySettings, PolicyState, after_time, by_samples, every_n, first_of, state_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SETTINGS = PolicySettings(updates=3, wait_s=60, samples=500)


def state(accepted: int = 1, waited_s: float = 0, samples: int = 0) -> PolicyState:
    since = NOW - timedelta(seconds=waited_s) if accepted else None
    return PolicyState(now=NOW, accepted=accepted, first_accepted=since, samples=samples)


@pytest.mark.parametrize(
    ("policy", "waiting", "release", "reason"),
    [
        (every_n, state(accepted=2), False, "2 of 3 accepted updates"),
        (every_n, state(accepted=3), True, "3 of 3 accepted updates"),
        (every_n, state(accepted=4), True, "4 of 3 accepted updates"),
        (after_time, state(waited_s=59.5), False, "59.5 of 60 seconds since the first accepted update"),
        (after_time, state(waited_s=60), True, "60 of 60 seconds since the first accepted update"),
        (after_time, state(waited_s=-3600), False, "0 of 60 seconds since the first accepted update"),
        (by_samples, state(samples=499), False, "499 of 500 training rows"),
        (by_samples, state(samples=500), True, "500 of 500 training rows"),
        (first_of(every_n, after_time), state(accepted=1, waited_s=10), False, "1 of 3 .*; 10 of 60 .*"),
        (first_of(every_n, after_time), state(accepted=1, waited_s=61), True, "61 of 60 seconds .*"),
        (first_of(every_n, after_time), state(accepted=3, waited_s=61), True, "3 of 3 .*; 61 of 60 .*"),
    ],
)
def test_a_policy_decides_and_says_why(policy, waiting, release, reason) -> None:  # type: ignore[no-untyped-def]
    """G1."""
    decision = policy(waiting, SETTINGS)
    assert decision.release is release
    assert re.fullmatch(reason, decision.reason)


@pytest.mark.parametrize("policy", [*POLICIES.values(), first_of(*POLICIES.values())])
@given(settings=st.builds(PolicySettings, updates=st.integers(0, 9), wait_s=st.floats(0, 9), samples=st.integers(0, 9)))
def test_nothing_is_released_from_nothing(policy, settings) -> None:  # type: ignore[no-untyped-def]
    decision = policy(state(accepted=0), settings)
    assert (decision.release, decision.reason) == (False, "no accepted update waits")


def test_the_state_is_counted_from_the_updates() -> None:
    def update(sequence: int, splits: dict[str, int]) -> Update:
        return Update(
            path="en/x",
            issuer="1" * 64,
            audience="2" * 64,
            base="3" * 64,
            release=ReleasePin(path="en", version=1, digest="4" * 64),
            sequence=sequence,
            created=NOW,
            expires=NOW + timedelta(days=1),
            adapter=Adapter(
                file=File(name="a.safetensors", size=1, sha256="5" * 64),
                shape=AdapterShape(rank=8, alpha=16.0, targets=("q_proj",), dtype="F32"),
            ),
            claims=tuple(
                Evaluation(dataset="d", split=split, rows=rows, metrics={}, path="en/x")
                for split, rows in splits.items()
            ),
            run="6" * 64,
            transfer=None,
            transfer_rows=0,
        )

    later, sooner = NOW - timedelta(hours=1), NOW - timedelta(hours=2)
    waiting = [(later, update(1, {"train": 300, "test": 50})), (sooner, update(2, {"train": 100}))]
    assert state_of(waiting, NOW) == PolicyState(now=NOW, accepted=2, first_accepted=sooner, samples=400)
    assert state_of([], NOW) == PolicyState(now=NOW, accepted=0, first_accepted=None, samples=0)
