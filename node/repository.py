"""What this node publishes: the releases that others may see, as targets of its TUF repository.

A target is a release's envelope, called `PATH/vN`. Of every path there are the version that this node serves and those
below it, so that the highest is the head. Where several keys signed a version, the served one is meant, else our own.
Releases that were mirrored are listed like own ones: the list says what this node serves, the envelope who made it.
"""

from __future__ import annotations

import re
import threading
from datetime import datetime, timedelta
from typing import Final

from pydantic import ValidationError

from node.api.shared import shared
from node.context import Node
from registry.documents import ReleasePin
from registry.store import Session, func, select
from registry.tables import EnrolmentRow, HeadRow, ReleaseRow
from registry.trust.keyring import Keyring
from registry.trust.repository import Repository, Target
from registry.trust.roles import Lives
from sync.pull import MAX_LISTED

VERSION: Final = re.compile(r"[1-9][0-9]{0,9}")

_Standing = tuple[int, frozenset[tuple[str, ...]], frozenset[tuple[str, ...]]]  # releases, heads, enrolments


def target_name(path: str, version: int) -> str:
    """What the envelope of a release is called as a target."""
    return f"{path}/v{version}"


def repository(node: Node) -> Repository:
    """The repository of an open node."""
    settings = node.settings
    lives = Lives(
        root=timedelta(days=settings.root_valid_days),
        metadata=timedelta(days=settings.metadata_valid_days),
        timestamp=timedelta(hours=settings.timestamp_valid_hours),
    )
    ring = Keyring(node.home.key_file.parent, node.passphrase)
    return Repository(node.home.repository, ring, node.key, lives)


def listed(node: Node, session: Session) -> dict[str, Target]:
    """The releases to be published (F1), the newest if there are too many; nothing of a revoked key (F11)."""
    heads = {head.path: head.release for head in session.scalars(select(HeadRow))}
    revoked = _revoked(session)
    rows = shared(node, session, session.scalars(select(ReleaseRow).order_by(ReleaseRow.created.desc())))
    served = {row.path: row.version for row in rows if heads.get(row.path) == row.digest and row.signer not in revoked}
    rows = [row for row in rows if row.version <= served.get(row.path, 0) and row.signer not in revoked]
    rows.sort(key=lambda row: (heads[row.path] != row.digest, not row.own))  # the ones that count come first
    found: dict[str, Target] = {}
    for row in rows:
        name = target_name(row.path, row.version)
        if name not in found and len(found) < MAX_LISTED:
            found[name] = Target(len(row.envelope), row.digest)
    return found


def _standing(session: Session) -> _Standing:
    """What `listed` follows from, without reading a release: releases are added, and neither changed nor removed."""
    releases = session.scalars(select(func.count()).select_from(ReleaseRow)).one()
    heads = session.execute(select(HeadRow.path, HeadRow.release)).all()
    enrolled = session.execute(select(EnrolmentRow.key_id, EnrolmentRow.path, EnrolmentRow.state)).all()
    return releases, frozenset(map(tuple, heads)), frozenset(map(tuple, enrolled))


def _revoked(session: Session) -> set[str]:
    """Keys all of whose enrolments were taken back."""
    rows = list(session.scalars(select(EnrolmentRow)))
    return {row.key_id for row in rows if row.state == "revoked"} - {r.key_id for r in rows if r.state == "active"}


class Publisher:
    """Keeps the repository up to date, doing nothing while nothing has changed. May be called from any thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._published: dict[str, Target] = {}
        self._standing: _Standing | None = None
        self._due: datetime | None = None

    def renew(self, now: datetime) -> None:
        """Publish what has changed, and sign anew what is about to expire (F6)."""
        with self._lock:
            with self._node.store.read() as session:
                standing = _standing(session)
                if standing == self._standing and self._due is not None and now < self._due:
                    return
                wanted = listed(self._node, session)
            if wanted != self._published or self._due is None or now >= self._due:
                self._due = repository(self._node).publish(wanted, now)
            self._published, self._standing = wanted, standing


def release_of(target: str, digest: str) -> ReleasePin | None:
    """The release that a target is; None where it has not the name of one."""
    path, _, version = target.rpartition("/v")
    if not VERSION.fullmatch(version):
        return None
    try:
        return ReleasePin(path=path, version=int(version), digest=digest)
    except ValidationError:
        return None
