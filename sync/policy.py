"""When accepted updates become a new release: pure functions of what is waiting and of the settings.

Each policy answers with its reason, so that a person can read why a release was made or is still being waited for.
Collecting the state and making the release is left to the daemon and to consolidation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from registry.documents import Update


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What waits at a path. `samples` counts the rows that the waiting updates say they were trained on."""

    now: datetime
    accepted: int
    first_accepted: datetime | None
    samples: int


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """The numbers that the policies compare with; each policy reads its own."""

    updates: int = 2
    wait_s: float = 3600.0
    samples: int = 1000


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to make a release now, and why."""

    release: bool
    reason: str


Policy = Callable[[PolicyState, PolicySettings], Decision]


def every_n(state: PolicyState, settings: PolicySettings) -> Decision:
    """Release as soon as `settings.updates` accepted updates wait."""
    return _reached(state, state.accepted, settings.updates, "accepted updates")


def after_time(state: PolicyState, settings: PolicySettings) -> Decision:
    """Release when the first accepted update has waited `settings.wait_s` seconds."""
    if state.first_accepted is None:
        return _reached(state, 0, settings.wait_s, "seconds since the first accepted update")
    # a clock that was set back must not make the wait longer than it ever was
    waited = max(state.now - state.first_accepted, timedelta()).total_seconds()
    return _reached(state, waited, settings.wait_s, "seconds since the first accepted update")


def by_samples(state: PolicyState, settings: PolicySettings) -> Decision:
    """Release when the waiting updates were trained on `settings.samples` rows together."""
    return _reached(state, state.samples, settings.samples, "training rows")


POLICIES: Final[dict[str, Policy]] = {"every-n": every_n, "time": after_time, "samples": by_samples}


def first_of(*policies: Policy) -> Policy:
    """The policy that releases as soon as one of `policies` does (G1); it waits for the reasons of all."""

    def decide(state: PolicyState, settings: PolicySettings) -> Decision:
        decisions = [policy(state, settings) for policy in policies]
        reached = [decision.reason for decision in decisions if decision.release]
        reasons = reached or [decision.reason for decision in decisions]
        return Decision(bool(reached), "; ".join(dict.fromkeys(reasons)))

    return decide


def state_of(waiting: Iterable[tuple[datetime, Update]], now: datetime) -> PolicyState:
    """What waits, from each accepted update with the time of its acceptance.

    The samples are the rows that senders claim for their `train` split: only the moment of a release hangs on them.
    """
    listed = list(waiting)
    return PolicyState(
        now=now,
        accepted=len(listed),
        first_accepted=min((since for since, _ in listed), default=None),
        samples=sum(claim.rows for _, update in listed for claim in update.claims if claim.split == "train"),
    )


def _reached(state: PolicyState, value: float, threshold: float, of_what: str) -> Decision:
    if state.accepted == 0:
        return Decision(False, "no accepted update waits")
    reached = value >= threshold
    return Decision(reached, f"{value:g} of {threshold:g} {of_what}")
