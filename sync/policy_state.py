"""What waits at a place, in the figures that policies compare: read from the database, no model is loaded."""

from __future__ import annotations

import json
import math
import statistics
from datetime import datetime
from typing import Final

from registry.blobs import BlobStore
from registry.documents import AnyOffering, read_offering
from registry.keys import KeyId
from registry.paths import NodePath
from registry.store import Session, Store, select
from registry.tables import EnrolmentRow, HeadRow, ReleaseRow, UpdateRow
from sync.chain import release_files, stored_link
from sync.lifecycle import results_of
from sync.policy import PolicyState, Waiting
from sync.superseded import NEWEST

MOST_SUPERSEDED: Final = 100
RECENT: Final = 5  # releases that a change is compared with
GAIN: Final = "behaviour.gain"  # as `sync.checks.behaviour` names it; importing that would load a model library


def policy_state(store: Store, blobs: BlobStore, own: KeyId, place: NodePath, now: datetime) -> PolicyState:
    """The state of a place at a time; `own` is the key of this node, which is no child of its own."""
    with store.read() as session:
        head = session.scalars(
            select(ReleaseRow).join(HeadRow, HeadRow.release == ReleaseRow.digest).where(ReleaseRow.path == str(place))
        ).first()
        version = head.version if head else 0
        rows = session.scalars(select(UpdateRow).where(UpdateRow.direction == "in", UpdateRow.state == "accepted"))
        found = [(row, read_offering(row.envelope)) for row in rows]  # verified when it came in
        waiting = [
            _waiting(row, update, version, _first_received(session, row))
            for row, update in found
            if update.release.path == str(place)
        ]
        children = _children(session, own, place)
        return PolicyState(
            now=now,
            waiting=tuple(waiting),
            children=children,
            recent=_recent(session, place),
            release_bytes=_release_bytes(blobs, session, head) * max(1, children),
        )


def _first_received(session: Session, row: UpdateRow) -> datetime:
    """When the first of the updates came that an accepted one supersedes; when it was accepted, where there is none.

    Without it a child that sends more often than the longest wait would put its parent's release off for ever.
    """
    earlier = (
        select(UpdateRow)
        .where(UpdateRow.direction == "in", UpdateRow.issuer == row.issuer, UpdateRow.path == row.path)
        .where(UpdateRow.sequence < row.sequence)
        .order_by(UpdateRow.sequence.desc())
        .limit(MOST_SUPERSEDED)
    )
    first = row.changed
    for one in session.scalars(earlier):
        if one.state != "rejected":
            break
        if any(check.name == NEWEST for check in results_of(one)):
            first = min(first, one.received)
    return first


def _waiting(row: UpdateRow, update: AnyOffering, version: int, first: datetime) -> Waiting:
    gains = [100 * one.value for one in results_of(row) if one.name == GAIN and one.value is not None]
    return Waiting(
        since=first,
        issuer=row.issuer,
        behind=max(0, version - update.release.version),
        rows=sum(claim.rows for claim in update.claims if claim.split == "train"),
        norm=_norm(row),
        points=gains[0] if gains else None,
    )


def _norm(row: UpdateRow) -> float | None:
    """‖ΔW‖_F over all modules, from those of each."""
    return math.hypot(*json.loads(row.norms).values()) if row.norms is not None else None


def _recent(session: Session, place: NodePath) -> tuple[float, ...]:
    """The mean norm of the updates in each of the last releases of a place, the latest first."""
    releases = select(ReleaseRow.digest).where(ReleaseRow.path == str(place), ReleaseRow.own)
    means: list[float] = []
    for digest in session.scalars(releases.order_by(ReleaseRow.version.desc()).limit(4 * RECENT)):
        rows = session.scalars(select(UpdateRow).where(UpdateRow.release == digest, UpdateRow.state != "undone"))
        norms = [norm for row in rows if (norm := _norm(row)) is not None]
        if norms:
            means.append(statistics.fmean(norms))
    return tuple(means[:RECENT])


def _release_bytes(blobs: BlobStore, session: Session, head: ReleaseRow | None) -> int:
    """What one child pulls of a release like the one that is served."""
    if head is None:
        return 0
    return sum(file.size for file in release_files(stored_link(session, blobs, head.digest).release))


def _children(session: Session, own: KeyId, place: NodePath) -> int:
    """Who is enrolled here below a place; the enrolment of this node at its own parent lies beside theirs."""
    theirs = select(EnrolmentRow.path).where(EnrolmentRow.state == "active", EnrolmentRow.key_id != own)
    return sum(NodePath.parse(path).is_within(place) for path in session.scalars(theirs))
