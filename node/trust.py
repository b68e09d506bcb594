"""Which keys may sign the release of a path, as this node sees it.

Our own key for our own places. The parent's key for the places at which it is our parent, for everything above them,
and for what lies below them, where it could enrol any key. A child's key for the subtree that we enrolled it for.
Keys that the parent enrolled are found by `sync.pull`, which asks for the enrolment.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from node.context import Node
from registry.documents import Enrolment, ReleasePin, open_document
from registry.keys import PublicKey
from registry.paths import NodePath
from registry.store import select
from registry.tables import EnrolmentRow, PeerRow
from sync.pull import TrustedKeys


def trusted_keys(node: Node, now: datetime) -> TrustedKeys:
    """The rule of this node at a moment (R7); each call of it reads the database."""

    def trusted(path: NodePath) -> list[PublicKey]:
        own = [node.key.public] if any(path.is_within(mine) for mine in node.paths) else []
        with node.store.read() as session:
            parents = list(session.scalars(select(PeerRow).where(PeerRow.role == "parent")))
            rows = list(session.scalars(select(EnrolmentRow).where(EnrolmentRow.state == "active")))
        ours = [row for row in rows if row.key_id == node.key.public.id]
        theirs = [granted(row, node.key.public) for row in rows if row.key_id != node.key.public.id]
        above = [PublicKey.from_hex(row.public_key) for row in parents if _is_at(row, ours, path)]
        below = [PublicKey.from_hex(enrolment.key) for enrolment in theirs if _holds(enrolment, path, now)]
        return own + above + below

    return trusted


def vouched(node: Node, releases: Iterable[ReleasePin]) -> frozenset[str]:
    """The digests of those releases that the parent vouches for by listing them where it may speak (F9)."""
    with node.store.read() as session:
        parents = list(session.scalars(select(PeerRow).where(PeerRow.role == "parent")))
        active = select(EnrolmentRow).where(EnrolmentRow.state == "active", EnrolmentRow.key_id == node.key.public.id)
        ours = list(session.scalars(active))
    return frozenset(
        pin.digest for pin in releases if any(_is_at(parent, ours, NodePath.parse(pin.path)) for parent in parents)
    )


def granted(row: EnrolmentRow, issuer: PublicKey) -> Enrolment:
    """The enrolment of an active row, verified. Raises BadData when it is not one that `issuer` signed."""
    return open_document(row.envelope or b"", Enrolment, [issuer])[0]


def _is_at(parent: PeerRow, ours: list[EnrolmentRow], path: NodePath) -> bool:
    """Whether a path lies above or below a place of the parent: where it was found, or where it enrolled us."""
    key = PublicKey.from_hex(parent.public_key)
    places = [parent.path, *(granted(row, key).issuer_path for row in ours)]
    return any(path.is_within(place) or place.is_within(path) for place in map(NodePath.parse, places))


def _holds(enrolment: Enrolment, path: NodePath, now: datetime) -> bool:
    return path.is_within(NodePath.parse(enrolment.path)) and now < enrolment.expires
