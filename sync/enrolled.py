"""Who may send updates to this node, and who this node is.

Asking for an enrolment and granting it is left to the commands and the interface that do so; what an update may say,
to `sync.checks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from registry.documents import Enrolment, open_document
from registry.errors import BadData
from registry.keys import KeyId, PrivateKey, PublicKey
from registry.paths import NodePath
from registry.store import Session, select
from registry.tables import EnrolmentRow


class NotEnrolled(BadData):
    """The key may not speak here: nothing of what it sends is stored."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the parent is: its key, and the places that it is responsible for."""

    key: PrivateKey
    paths: tuple[NodePath, ...]


@dataclass(frozen=True, slots=True)
class Speaker:
    """A key and the places that it may speak for now, with all that lies below them."""

    key: PublicKey
    places: tuple[NodePath, ...]

    def may_speak_for(self, path: NodePath) -> bool:
        """Whether a path lies in one of the places."""
        return any(path.is_within(place) for place in self.places)


def speaker(session: Session, issuer: KeyId, own: Identity, now: datetime) -> Speaker:
    """What the enrolments of an issuer allow (N9, U2); raises NotEnrolled with the reason where they allow nothing."""
    rows = session.scalars(select(EnrolmentRow).where(EnrolmentRow.key_id == issuer).order_by(EnrolmentRow.path)).all()
    problems = {row.path: _why_not(row, own, now) for row in rows}
    places = tuple(NodePath.parse(path) for path, problem in problems.items() if problem is None)
    if not places:
        why = "; ".join(f"{path}: {problem}" for path, problem in problems.items()) or "it is unknown here"
        raise NotEnrolled(f"the key {issuer} may not send updates: {why}", "node enrol")
    return Speaker(PublicKey.from_hex(rows[0].public_key), places)


def _why_not(row: EnrolmentRow, own: Identity, now: datetime) -> str | None:
    """Why an enrolment does not count, None if it does. What was signed is believed, not the columns beside it."""
    if row.state == "revoked":
        return "its enrolment was revoked"
    if row.state == "pending" or row.envelope is None:
        return "it was not enrolled yet"
    try:
        enrolment, _ = open_document(row.envelope, Enrolment, [own.key.public])
    except BadData as error:
        return f"its enrolment does not hold: {error.message}"
    if (PublicKey.from_hex(enrolment.key).id, enrolment.path) != (row.key_id, row.path):
        return "its enrolment is for another key or place"
    return None if now < enrolment.expires else f"its enrolment expired on {enrolment.expires:%Y-%m-%d}"
