"""When accepted updates become a new release: pure functions of what is waiting and of the settings.

Each policy answers with its reason, so that a person can read why a release was made or is still being waited for, and
with the moment at which time alone may change the answer. Only the moment of a release hangs on them: what an update
counts in it is decided by merging, never by what its sender claims. Collecting the state is left to `node.promotions`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

STALENESS_EXPONENT: Final = 0.5  # a of (1 + s)^-a, the polynomial weight of FedAsync (Xie et al., arXiv 1903.03934)


@dataclass(frozen=True, slots=True)
class Waiting:
    """One accepted update that no release holds yet.

    `since`: when it was accepted, or the first of those came that it supersedes. `behind`: versions that the release it
    builds on lies behind the newest. `rows`: what its sender says it was trained on. `norm`: ‖ΔW‖_F over all modules,
    None until measured. `points`: what this node measured that it adds, in points of its own transfer rows; None where
    it was not measured.
    """

    since: datetime
    issuer: str
    behind: int = 0
    rows: int = 0
    norm: float | None = None
    points: float | None = None


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What waits at a path.

    `children`: how many may send updates, 0 where that is not known. `recent`: mean ‖ΔW‖_F of the updates in each of
    the last releases, the latest first. `release_bytes`: what a release costs on the wire, to all children together.
    `oracle`: what a simulation knows to be right.
    """

    now: datetime
    waiting: tuple[Waiting, ...] = ()
    children: int = 0
    recent: tuple[float, ...] = ()
    release_bytes: int = 0
    oracle: bool = False


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """The numbers that the policies compare with; each policy reads its own."""

    updates: int = 2
    wait_s: float = 86_400.0
    samples: int = 1_000
    senders: int = 2
    weight: float = 2.0
    drift: float = 2.0
    event: float = 1.5
    lazy: float = 0.5
    points: float = 10.0
    points_per_mb: float = 1.0


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to make a release now, and why; `again`: when to ask again though nothing came, None for never."""

    release: bool
    reason: str
    again: datetime | None = None


Policy = Callable[[PolicyState, PolicySettings], Decision]


def every_n(state: PolicyState, settings: PolicySettings) -> Decision:
    """Release as soon as `settings.updates` accepted updates wait, or one of every child where there are fewer."""
    return _reached(state, len(state.waiting), _at_most_all(state, settings.updates), "accepted updates")


def after_time(state: PolicyState, settings: PolicySettings) -> Decision:
    """Release when the first accepted update has waited `settings.wait_s` seconds."""
    first = min((one.since for one in state.waiting), default=state.now)
    # a clock that was set back must not make the wait longer than it ever was
    waited = max(state.now - first, timedelta()).total_seconds()
    found = _reached(state, waited, settings.wait_s, "seconds since the first accepted update")
    if found.release or not state.waiting:
        return found
    return Decision(False, found.reason, state.now + timedelta(seconds=settings.wait_s - waited))


def by_samples(state: PolicyState, settings: PolicySettings) -> Decision:
    """Release when the waiting updates say that they were trained on `settings.samples` rows together."""
    return _reached(state, sum(one.rows for one in state.waiting), settings.samples, "training rows, as claimed")


def buffered(state: PolicyState, settings: PolicySettings) -> Decision:
    """Release when `settings.senders` different senders wait, or all: FedBuff's buffer of K (arXiv 2106.06639).

    Senders instead of updates, so that one that hurries does not fill the buffer alone.
    """
    senders = len({one.issuer for one in state.waiting})
    return _reached(state, senders, _at_most_all(state, settings.senders), "different senders")


def by_staleness(state: PolicyState, settings: PolicySettings) -> Decision:
    """Release when the updates weigh `settings.weight`, each (1 + s)^-½ at s versions behind (arXiv 1903.03934)."""
    weight = sum((1 + one.behind) ** -STALENESS_EXPONENT for one in state.waiting)
    return _reached(state, weight, settings.weight, "updates, each weighed by its staleness")


def by_drift(state: PolicyState, settings: PolicySettings) -> Decision:
    """Release when the children have moved `settings.drift` usual changes away, all together.

    After the divergence condition of dynamic averaging (Kamp et al., ECML 2018, arXiv 1807.03210).
    """
    return _beside_usual(state, sum(_norms(state)), settings.drift, "usual changes of all waiting updates together")


def by_event(state: PolicyState, settings: PolicySettings) -> Decision:
    """Release as soon as one update is `settings.event` times as large as usual: send-on-delta (Miśkowicz, 2006)."""
    return _beside_usual(state, max(_norms(state), default=0.0), settings.event, "times the usual change by one update")


def lazily(state: PolicyState, settings: PolicySettings) -> Decision:
    """Release unless the change would be small beside the last ones: LAG's condition (Chen et al., arXiv 1805.09965).

    ‖mean change‖² against `settings.lazy` times the mean square of the last releases' changes. For want of the angles
    between the updates, their mean norm stands for the norm of their mean, which it bounds.
    """
    norms = _norms(state)
    if not state.recent:
        return _nothing_usual(state)
    mean = statistics.fmean(norms) if norms else 0.0
    past = statistics.fmean(size**2 for size in state.recent)
    return _reached(state, mean**2 / past if past else 0.0, settings.lazy, "of the squared change of the last releases")


def by_gain(state: PolicyState, settings: PolicySettings) -> Decision:
    """Release when the updates add `settings.points` points together, as measured here."""
    return _reached(state, _points(state), settings.points, "points gained, as measured here")


def by_gain_per_byte(state: PolicyState, settings: PolicySettings) -> Decision:
    """Release when the points gained are worth the bytes that all children will pull."""
    megabytes = max(state.release_bytes, 1) / 1e6
    return _reached(state, _points(state) / megabytes, settings.points_per_mb, "points gained for each MB to be pulled")


def always(state: PolicyState, settings: PolicySettings) -> Decision:  # noqa: ARG001  one signature for all
    """Release whatever waits; a yardstick, and `every_n` with 1."""
    return _reached(state, len(state.waiting), 1, "accepted updates")


def never(state: PolicyState, settings: PolicySettings) -> Decision:  # noqa: ARG001
    """Release nothing; a yardstick, and for who releases by hand."""
    return Decision(False, f"{len(state.waiting)} accepted updates wait, and the policy is never")


def oracle(state: PolicyState, settings: PolicySettings) -> Decision:  # noqa: ARG001
    """Release when the simulation knows that it is best; the yardstick that nobody can follow."""
    return Decision(state.oracle and bool(state.waiting), "what the simulation knows to be best")


def first_of(*policies: Policy) -> Policy:
    """The policy that releases as soon as one of `policies` does (G1); it waits for the reasons of all."""

    def decide(state: PolicyState, settings: PolicySettings) -> Decision:
        decisions = [policy(state, settings) for policy in policies]
        reached = [decision.reason for decision in decisions if decision.release]
        reasons = reached or [decision.reason for decision in decisions]
        again = min((one.again for one in decisions if one.again is not None), default=None)
        return Decision(bool(reached), "; ".join(dict.fromkeys(reasons)), None if reached else again)

    return decide


def _or_in_time(policy: Policy) -> Policy:
    """No accepted update waits for others for ever."""
    return first_of(policy, after_time)


# What a node may follow, by the setting `policy`.
POLICIES: Final[dict[str, Policy]] = {
    "every-n": _or_in_time(every_n),
    "time": after_time,
    "samples": _or_in_time(by_samples),
    "buffer": _or_in_time(buffered),
    "staleness": _or_in_time(by_staleness),
    "drift": _or_in_time(by_drift),
    "event": _or_in_time(by_event),
    "lazy": _or_in_time(lazily),
    "gain": _or_in_time(by_gain),
    "gain-per-byte": _or_in_time(by_gain_per_byte),
    "always": always,
    "never": never,
}
NEED_NORMS: Final = frozenset({"drift", "event", "lazy"})
NEED_GAIN: Final = frozenset({"gain", "gain-per-byte"})


def _reached(state: PolicyState, value: float, threshold: float, of_what: str) -> Decision:
    if not state.waiting:
        return Decision(False, "no accepted update waits")
    return Decision(value >= threshold, f"{value:.4g} of {threshold:g} {of_what}")


def _at_most_all(state: PolicyState, count: int) -> int:
    """A number of updates that can come: of each child only the newest waits (V10)."""
    return min(count, state.children) if state.children else count


def _beside_usual(state: PolicyState, value: float, threshold: float, of_what: str) -> Decision:
    if not state.recent:
        return _nothing_usual(state)
    usual = statistics.median(state.recent)
    return _reached(state, value / usual if usual else 0.0, threshold, of_what)


def _nothing_usual(state: PolicyState) -> Decision:
    """Before the first release there is nothing to compare with."""
    return _reached(state, len(state.waiting), 1, "accepted updates, as there is no release to compare with")


def _norms(state: PolicyState) -> Sequence[float]:
    return [one.norm for one in state.waiting if one.norm is not None]


def _points(state: PolicyState) -> float:
    return sum(max(0.0, one.points) for one in state.waiting if one.points is not None)
