"""The first and cheapest checks of an update: what its signed words say, against what the parent knows.

Pure functions of the update, of the parent's standing knowledge and of the limits. Whether the signature holds, and
finding out what the parent knows, is left to `sync.inbox`; what the files hold, to the other checks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from registry.documents import AnyOffering, CheckResult, Distillation
from registry.keys import KeyId
from registry.paths import NodePath
from sync.checks.finding import Finding, run_check

MAX_SEQUENCE_JUMP: Final = 1_000_000  # a slip must not lock a sender out of all the numbers that it has left


@dataclass(frozen=True, slots=True)
class Limits:
    """What a parent takes from its children. Releases behind: how old the release may be that a delta builds on."""

    update_bytes: int = 64 << 20
    rank: int = 64
    transfer_rows: int = 5_000
    releases_behind: int = 4
    skew_s: float = 600.0
    pending: int = 64  # updates that wait for their files or checks, of all issuers
    pending_per_issuer: int = 8
    per_day_and_issuer: int = 200


@dataclass(frozen=True, slots=True)
class Pinned:
    """The parent's own release that an update builds on, and the version that its path has reached."""

    path: NodePath
    version: int
    base: str
    newest: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What the parent knows when an update comes in. `enrolled` are the places that the issuer may speak for now."""

    now: datetime
    audience: KeyId
    paths: tuple[NodePath, ...]
    enrolled: tuple[NodePath, ...]
    pinned: Pinned | None
    highest: int


def check_envelope(
    update: AnyOffering, standing: Standing, limits: Limits, clock: Callable[[], float] = time.perf_counter
) -> list[CheckResult]:
    """Every check of this stage, all of them even after one failed: the sender learns everything at once."""
    return [
        run_check(f"envelope.{name}", partial(check, update, standing, limits), clock) for name, check in CHECKS.items()
    ]


def _enrolment(update: AnyOffering, standing: Standing, _limits: Limits) -> Finding:
    """The path lies within a place of the issuer (C1)."""
    path = NodePath.parse(update.path)
    places = ", ".join(map(str, standing.enrolled)) or "no place"
    passed = any(path.is_within(place) for place in standing.enrolled)
    return Finding(passed, f"the issuer may speak for {places}; the update is for {path}")


def _audience(update: AnyOffering, standing: Standing, _limits: Limits) -> Finding:
    """The update is addressed to this node (C2)."""
    if update.audience == standing.audience:
        return Finding(True, "the update is for this node")
    return Finding(False, f"the update is for the node {update.audience}, this is {standing.audience}")


def _release(update: AnyOffering, standing: Standing, _limits: Limits) -> Finding:
    """It builds on a release of ours (C3)."""
    pin = f"{update.release.path}@v{update.release.version}"
    pinned = standing.pinned
    if pinned is None or not any(pinned.path.is_within(place) for place in standing.paths):
        return Finding(False, f"{pin} ({update.release.digest}) is not a release of this node")
    if (str(pinned.path), pinned.version) != (update.release.path, update.release.version):
        return Finding(False, f"the release called {pin} is {pinned.path}@v{pinned.version} here")
    if not NodePath.parse(update.path).is_within(pinned.path):
        return Finding(False, f"{update.path} does not lie below {pin}")
    return Finding(True, f"the delta builds on {pin}")


def _staleness(update: AnyOffering, standing: Standing, limits: Limits) -> Finding:
    """That release is not too old (C4)."""
    if standing.pinned is None:
        return Finding(True, "not known without the release")
    behind = max(0, standing.pinned.newest - update.release.version)
    reason = (
        f"{update.release.path}@v{update.release.version} is {behind} releases behind; {limits.releases_behind} may be"
    )
    return Finding(behind <= limits.releases_behind, reason, behind, limits.releases_behind)


def _base(update: AnyOffering, standing: Standing, _limits: Limits) -> Finding:
    """The base is that of the release (C5)."""
    if isinstance(update, Distillation):
        return Finding(True, "answers may come from any base")
    if standing.pinned is None:
        return Finding(True, "not known without the release")
    if update.base == standing.pinned.base:
        return Finding(True, "the update has the base of its release")
    return Finding(False, f"the update is for the base {update.base}, its release has {standing.pinned.base}")


def _sequence(update: AnyOffering, standing: Standing, _limits: Limits) -> Finding:
    """The number was not used and does not jump (C6, U6)."""
    value, highest = update.sequence, standing.highest
    if value <= highest:
        return Finding(False, f"sequence {value} was used before: send more than {highest}", value, highest + 1)
    if value > highest + MAX_SEQUENCE_JUMP:
        reason = f"sequence {value} jumps by more than {MAX_SEQUENCE_JUMP}: the last was {highest}"
        return Finding(False, reason, value, highest + MAX_SEQUENCE_JUMP)
    return Finding(True, f"the last sequence was {highest}", value, highest + 1)


def _expiry(update: AnyOffering, standing: Standing, _limits: Limits) -> Finding:
    """It has not expired (C7)."""
    left_s = (update.expires - standing.now).total_seconds()
    if left_s > 0:
        return Finding(True, f"valid for {left_s:.0f} s more", left_s, 0.0)
    return Finding(False, f"the update expired {-left_s:.0f} s ago: sign it anew", left_s, 0.0)


def _clock(update: AnyOffering, standing: Standing, limits: Limits) -> Finding:
    """It is not from the future (C8)."""
    ahead_s = (update.created - standing.now).total_seconds()
    if ahead_s <= limits.skew_s:
        return Finding(True, "created before now, as far as clocks agree", ahead_s, limits.skew_s)
    reason = (
        f"created {ahead_s:.0f} s in the future: the sender's clock is wrong, or this node's ({standing.now:%FT%TZ})"
    )
    return Finding(False, reason, ahead_s, limits.skew_s)


def _size(update: AnyOffering, _standing: Standing, limits: Limits) -> Finding:
    """Its files are not too large (C9)."""
    size = sum(file.size for file in update.files)
    return Finding(
        size <= limits.update_bytes, f"{size} bytes in all; {limits.update_bytes} may be", size, limits.update_bytes
    )


def _rank(update: AnyOffering, _standing: Standing, limits: Limits) -> Finding:
    """Its rank is not too high (C10)."""
    if isinstance(update, Distillation):
        return Finding(True, "no adapter, no rank")
    rank = update.adapter.shape.rank
    return Finding(rank <= limits.rank, f"rank {rank}; at most {limits.rank} may be", rank, limits.rank)


def _transfer(update: AnyOffering, _standing: Standing, limits: Limits) -> Finding:
    """Not too many rows travel (C11)."""
    if len({file.sha256 for file in update.files}) < len(update.files):
        return Finding(False, "one file is offered as adapter and as transfer set")
    rows = update.rows
    return Finding(
        rows <= limits.transfer_rows, f"{rows} rows; at most {limits.transfer_rows} may be", rows, limits.transfer_rows
    )


CHECKS: Final[dict[str, Callable[[AnyOffering, Standing, Limits], Finding]]] = {
    "enrolment": _enrolment,
    "audience": _audience,
    "release": _release,
    "staleness": _staleness,
    "base": _base,
    "sequence": _sequence,
    "expiry": _expiry,
    "clock": _clock,
    "size": _size,
    "rank": _rank,
    "transfer": _transfer,
}
