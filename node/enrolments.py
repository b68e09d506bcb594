"""The parent's side of enrolment: who asks to speak for a place below ours, and our signed answer.

Asking is open to everybody and stores little; accepting is a person's decision about a fingerprint.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from node.context import Node
from node.trust import granted
from registry.documents import Enrolment, open_request, seal_document
from registry.errors import BadData, LocalFailure
from registry.keys import KeyId, PublicKey
from registry.log.entry import log_entry
from registry.log.leaves import append
from registry.paths import NodePath
from registry.store import Session, func, select
from registry.tables import DecisionRow, EnrolmentRow, EnrolmentState, PeerRow
from sync.address import read_node_url

MAX_PENDING: Final = 1_000


@dataclass(frozen=True, slots=True)
class Applicant:
    """One key at one place, and where its enrolment stands."""

    key: PublicKey
    path: NodePath
    url: str | None
    state: EnrolmentState
    expires: datetime | None
    changed: datetime


def list_enrolments(node: Node) -> list[Applicant]:
    """Everybody who asked this node, the latest first."""
    with node.store.read() as session:
        wanted = select(EnrolmentRow).where(EnrolmentRow.key_id != node.key.public.id)
        rows = session.scalars(wanted.order_by(EnrolmentRow.changed.desc())).all()
    return [_applicant(node, row) for row in rows]


def take_request(node: Node, envelope: bytes, now: datetime) -> EnrolmentState:
    """Note that a key asks for a path (N2, N3, N4); the same key and path again only get the state.

    Raises BadData when the request is not signed by the key that it names, or is for a place that is not below ours;
    LocalFailure when too many wait already.
    """
    request, opened = open_request(envelope)
    path = NodePath.parse(request.path)
    if opened.signer.id == node.key.public.id:
        raise BadData("a node cannot enrol with itself", "ask the node of a place above")
    if not any(path.is_within(place) for place in node.paths):
        named = ", ".join(map(str, node.paths)) or "no place"
        raise BadData(f"{path} does not lie below this node ({named})", "ask the node of a place above it")
    if request.url is not None:
        read_node_url(request.url, typed=False)  # P3: it may be looked at by others than who wrote it
    ahead = request.created - now
    if ahead > timedelta(seconds=node.settings.clock_skew_s):
        raise BadData(
            f"the request was made {ahead.total_seconds():.0f} s from now", "set the clock of the asking node"
        )
    with node.store.transaction() as session:
        row = session.get(EnrolmentRow, (opened.signer.id, str(path)))
        if row is None:
            waiting = session.scalar(
                select(func.count()).select_from(EnrolmentRow).where(EnrolmentRow.state == "pending")
            )
            if (waiting or 0) >= MAX_PENDING:
                raise LocalFailure("too many requests wait for this node's operator", "try again later")
            row = EnrolmentRow(
                key_id=opened.signer.id,
                path=str(path),
                public_key=opened.signer.hex,
                state="pending",
                request=envelope,
                url=request.url,
                changed=now,
            )
            session.add(row)
        return row.state


def find_enrolment(node: Node, key_id: KeyId, path: NodePath) -> EnrolmentRow | None:
    """The enrolment of a key for a path: the one for that very path, else an active one for a place above it."""
    with node.store.read() as session:
        rows = list(session.scalars(select(EnrolmentRow).where(EnrolmentRow.key_id == key_id)))
    exact = [row for row in rows if row.path == str(path)]
    above = [row for row in rows if row.state == "active" and path.is_within(NodePath.parse(row.path))]
    return next(iter(exact + sorted(above, key=lambda row: -len(row.path))), None)


def accept(node: Node, key_id: KeyId, path: NodePath, now: datetime) -> Applicant:
    """Sign that a key may speak for a path and below, or sign it anew (N5). LocalFailure when nobody asked for it."""
    places = [place for place in node.paths if path.is_within(place)]
    if not places:
        raise LocalFailure(f"this node is no longer responsible for a place above {path}", "node config show")
    with node.store.transaction() as session:
        row = _asked(session, key_id, path)
        enrolment = Enrolment(
            path=str(path),
            key=row.public_key,
            issuer=node.key.public.id,
            issuer_path=str(max(places)),
            created=now,
            expires=now + timedelta(days=node.settings.enrolment_valid_days),
        )
        envelope = seal_document(enrolment, node.key)
        row.state, row.envelope, row.changed = "active", envelope, now
        peer = session.get(PeerRow, key_id)
        if peer is None:
            session.add(
                PeerRow(key_id=key_id, role="child", path=str(path), url=row.url or "", public_key=row.public_key)
            )
        _write_down(session, "enrolled", row, now)
        append(session, log_entry("enrolment.granted", sha256(envelope).hexdigest(), now, by="person"))
        return _applicant(node, row)


def revoke(node: Node, key_id: KeyId, path: NodePath, now: datetime) -> Applicant:
    """Take a key's right to speak for a path back, or refuse it. LocalFailure when nobody asked.

    The leaf of the log (L1) is about the enrolment that ends or, where none was granted, about the request.
    """
    with node.store.transaction() as session:
        row = _asked(session, key_id, path)
        subject = sha256(row.envelope or row.request).hexdigest()
        row.state, row.envelope, row.changed = "revoked", None, now
        _write_down(session, "revoked", row, now)
        append(session, log_entry("enrolment.revoked", subject, now, by="person"))
        return _applicant(node, row)


def _asked(session: Session, key_id: KeyId, path: NodePath) -> EnrolmentRow:
    row = session.get(EnrolmentRow, (key_id, str(path)))
    if row is None:
        raise LocalFailure(f"no key {key_id} has asked for {path}", "node enrol list")
    return row


def _write_down(session: Session, kind: str, row: EnrolmentRow, now: datetime) -> None:
    session.add(DecisionRow(at=now, kind=kind, subject=row.key_id, body=json.dumps({"path": row.path})))


def _applicant(node: Node, row: EnrolmentRow) -> Applicant:
    key = PublicKey.from_hex(row.public_key)
    expires = granted(row, node.key.public).expires if row.state == "active" else None
    return Applicant(key, NodePath.parse(row.path), row.url, row.state, expires, row.changed)
