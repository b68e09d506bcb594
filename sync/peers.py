"""What is remembered of the exchange with a peer, and whether it may be contacted now; read by `node sync status`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from registry.errors import BanyanError
from registry.keys import KeyId
from registry.store import Session
from registry.tables import PeerStateRow
from sync.backoff import pause_s
from sync.meter import Meter, OverBudget

DAY: Final = timedelta(days=1)
KEPT_ERRORS: Final = 5
ERROR_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one peer may take of us."""

    bytes_per_day: int = 128 << 30
    requests_per_day: int = 200_000
    round_s: float = 7_200.0
    longest_pause_s: float = 300.0


def peer_state(session: Session, key_id: KeyId) -> PeerStateRow:
    """The state of a peer; a new one where nothing is remembered, which the session keeps if it may write."""
    row = session.get(PeerStateRow, key_id)
    if row is None:
        row = PeerStateRow(key_id=key_id)
        session.add(row)
    return row


def why_not_now(row: PeerStateRow, allowance: Allowance, now: datetime) -> str:
    """Why a peer is not to be contacted now (S4, S5); empty if it may be.

    A moment that lies further ahead than a wait can last was written by a wrong clock, and does not count.
    """
    if row.retry is not None and now < row.retry <= now + timedelta(seconds=allowance.longest_pause_s):
        return f"it failed {row.failures} times in a row: it is left alone until {row.retry:%Y-%m-%d %H:%M:%S} UTC"
    used_bytes, used_requests = taken(row, now)
    if used_bytes >= allowance.bytes_per_day or used_requests >= allowance.requests_per_day:
        ends = (row.day or now) + DAY
        return (
            f"it has had {used_bytes:,} bytes and {used_requests:,} requests today: more from {ends:%d %b %H:%M} UTC on"
        )
    return ""


def taken(row: PeerStateRow, now: datetime) -> tuple[int, int]:
    """Bytes and requests of the running day."""
    return (row.day_bytes, row.day_requests) if _in_day(row, now) else (0, 0)


def meter_of(row: PeerStateRow, allowance: Allowance, now: datetime) -> Meter:
    """What the peer may take in the coming round."""
    used_bytes, used_requests = taken(row, now)
    return Meter(
        max_bytes=max(0, allowance.bytes_per_day - used_bytes),
        requests=max(0, allowance.requests_per_day - used_requests),
        seconds=allowance.round_s,
    )


def note_taken(row: PeerStateRow, meter: Meter, now: datetime) -> None:
    """Add a round to the day; a day begins with the first round after the last one."""
    if not _in_day(row, now):
        row.day, row.day_bytes, row.day_requests = now, 0, 0
    row.day_bytes += meter.moved_bytes
    row.day_requests += meter.requests
    row.contacted = now


def note_success(row: PeerStateRow, now: datetime) -> None:
    """The round came to its end."""
    row.succeeded, row.failures, row.retry = now, 0, None


def note_failure(row: PeerStateRow, error: BanyanError, longest_pause_s: float, chance: float, now: datetime) -> None:
    """The round ended early. A peer that has used up its budget is not at fault."""
    said = {"at": f"{now:%Y-%m-%dT%H:%M:%SZ}", "message": error.message[:ERROR_CHARS], "hint": error.hint[:ERROR_CHARS]}
    row.errors = json.dumps([said, *json.loads(row.errors)][:KEPT_ERRORS])
    if not isinstance(error, OverBudget):
        row.failures += 1
        row.retry = now + timedelta(seconds=pause_s(row.failures, longest_pause_s, chance))


def note_offer(row: PeerStateRow, offered: Mapping[str, int], *, behind: bool, now: datetime) -> None:
    """What the peer offers of what is followed here, by path, and whether all of it is served here."""
    row.offered = json.dumps(dict(sorted(offered.items())))
    row.behind = (row.behind or now) if behind else None


def offer_of(row: PeerStateRow) -> dict[str, int]:
    """The versions that the peer offered when it was last reached, by path."""
    return dict(json.loads(row.offered))


def errors_of(row: PeerStateRow) -> list[dict[str, Any]]:
    """The last errors, the newest first."""
    return list(json.loads(row.errors))


def _in_day(row: PeerStateRow, now: datetime) -> bool:
    return row.day is not None and row.day <= now < row.day + DAY
