"""`node sync status`: who this node exchanges with, how that goes, what waits, and what the policy says of each place.

Everything stands in the database, so that it can be asked while the daemon runs in another process and after it ended.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from node.context import Node
from node.exchange import allowance_of
from node.outbox import TO_SEND, opened, updates_out
from node.policies import decide_place
from node.pull import heads_here
from registry.documents import read_offering
from registry.keys import PublicKey
from registry.store import Session, select
from registry.tables import ArrivalRow, EnrolmentRow, PeerRow, PeerStateRow, UpdateRow
from sync.arrivals import arrivals, reason_of
from sync.daemon import daemon_of
from sync.lifecycle import UNDECIDED
from sync.peers import DAY, errors_of, offer_of, taken, why_not_now
from sync.uploads import files_of


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One peer. Times are None where they are not known; `behind` lists what it offers and is not served here."""

    role: str
    path: str
    fingerprint: str
    url: str
    last_contact: datetime | None
    last_success: datetime | None
    listening_since: datetime | None
    failures: int
    backoff_until: datetime | None
    waits: str
    bytes_today: int
    requests_today: int
    behind: list[dict[str, Any]]
    behind_since: datetime | None
    queue: dict[str, int]
    errors: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class PlaceStatus:
    """One own place: its release, what the policy says of it, and when it is asked again though nothing came."""

    path: str
    version: int
    policy: str
    release_now: bool
    reason: str
    again: datetime | None


@dataclass(frozen=True, slots=True)
class Status:
    """The whole of it; `daemon` is the process that runs on this home, None for none."""

    daemon: str | None
    peers: list[PeerStatus]
    inbox_waiting: int
    outbox_waiting: int
    quarantined: list[dict[str, Any]]
    places: list[PlaceStatus]


def status(node: Node, now: datetime) -> Status:
    """How the exchange stands."""
    with node.store.read() as session:
        known = list(session.scalars(select(PeerRow).order_by(PeerRow.role.desc(), PeerRow.path)))
        states = {row.key_id: row for row in session.scalars(select(PeerStateRow))}
        incoming = list(session.scalars(select(UpdateRow).where(UpdateRow.direction == "in")))
        peers = [
            _parent(node, row, states.get(row.key_id), now)
            if row.role == "parent"
            else _child(session, row, [one for one in incoming if one.issuer == row.key_id], now)
            for row in known
        ]
    return Status(
        daemon=daemon_of(node.home.daemon_lock),
        peers=peers,
        inbox_waiting=sum(row.state in UNDECIDED for row in incoming),
        outbox_waiting=len(updates_out(node, TO_SEND)),
        quarantined=[_held_update(row) for row in incoming if row.state == "quarantined"]
        + [_held_release(row) for row in arrivals(node.store, "quarantined")],
        places=_places(node, now),
    )


def _parent(node: Node, peer: PeerRow, state: PeerStateRow | None, now: datetime) -> PeerStatus:
    row = state or PeerStateRow(key_id=peer.key_id)
    used_bytes, used_requests = taken(row, now)
    here = heads_here(node)
    waiting = [one for one in updates_out(node, TO_SEND) if opened(node, one).audience == peer.key_id]
    return PeerStatus(
        role=peer.role,
        path=peer.path,
        fingerprint=PublicKey.from_hex(peer.public_key).fingerprint,
        url=peer.url,
        last_contact=row.contacted,
        last_success=row.succeeded,
        listening_since=row.listening,
        failures=row.failures,
        backoff_until=row.retry if row.retry is not None and row.retry > now else None,
        waits=why_not_now(row, allowance_of(node), now),
        bytes_today=used_bytes,
        requests_today=used_requests,
        behind=[
            {"path": path, "here": here[path].version if path in here else None, "offered": version}
            for path, version in offer_of(row).items()
            if path not in here or here[path].version < version
        ],
        behind_since=row.behind,
        queue=dict(Counter(one.state for one in waiting)),
        errors=errors_of(row),
    )


def _child(session: Session, peer: PeerRow, sent: list[UpdateRow], now: datetime) -> PeerStatus:
    """A child, by what it sent: it comes to us, we do not ask it."""
    enrolments = session.scalars(select(EnrolmentRow).where(EnrolmentRow.key_id == peer.key_id)).all()
    today = [read_offering(row.envelope) for row in sent if now - DAY < row.received]
    last = max((row.received for row in sent), default=None)
    return PeerStatus(
        role=peer.role,
        path=peer.path,
        fingerprint=PublicKey.from_hex(peer.public_key).fingerprint,
        url=peer.url,
        last_contact=last,
        last_success=max((row.received for row in sent if row.state != "rejected"), default=None),
        listening_since=None,
        failures=0,
        backoff_until=None,
        waits="" if any(one.state == "active" for one in enrolments) else "its enrolment was revoked",
        bytes_today=sum(file.size for update in today for file in files_of(update)),
        requests_today=len(today),
        behind=[],
        behind_since=None,
        queue=dict(Counter(row.state for row in sent if row.state in (*UNDECIDED, "quarantined", "accepted"))),
        errors=[],
    )


def _held_update(row: UpdateRow) -> dict[str, Any]:
    return {"kind": "update", "digest": row.digest, "path": row.path, "number": row.sequence, "since": row.changed}


def _held_release(row: ArrivalRow) -> dict[str, Any]:
    found = {"kind": "release", "digest": row.digest, "path": row.path, "number": row.version, "since": row.changed}
    return {**found, "reason": reason_of(row)}


def _places(node: Node, now: datetime) -> list[PlaceStatus]:
    here, found = heads_here(node), []
    for place in node.paths:
        row = here.get(str(place))
        if row is not None and row.own:
            decision = decide_place(node, place, now)
            found.append(
                PlaceStatus(
                    path=str(place),
                    version=row.version,
                    policy=node.settings.policy,
                    release_now=decision.release,
                    reason=decision.reason,
                    again=decision.again,
                )
            )
    return found
