"""Going back: a new release with the content of an older one, since versions only rise.

It is announced and pulled like every release. The updates of the releases that it undoes are marked so, each with a
new signed verdict that says why; what they taught may be offered again, as an update with a new number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from node.context import Node
from node.run_lock import run_lock
from node.validation import remove_validation
from registry.cards import MAX_CARD_BYTES, render_next_card
from registry.documents import AnyOffering, CheckResult, Release
from registry.errors import BadData, LocalFailure
from registry.log.entry import log_entry
from registry.log.leaves import append
from registry.paths import NodePath, Ref
from registry.rows import Row
from registry.store import Session, select
from registry.stored import stored_card
from registry.tables import DecisionRow, HeadRow, ReleaseRow, UpdateRow
from sync.chain import Link, release_files, serve, signed_link, stored_chain
from sync.inbox import Identity
from sync.lifecycle import load_update
from sync.review import undo
from sync.travelled import travelled, travelled_file

ROLLBACK = "release.rollback"


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What came of it: `version` has the content of `content_of`; `undone` versions, and the updates in them."""

    path: str
    version: int
    digest: str
    content_of: int
    undone: tuple[int, ...]
    updates: tuple[str, ...]


def roll_back(node: Node, path: NodePath, version: int | None, why: str, now: datetime) -> RolledBack:
    """Make the content of an older version the newest release (G7): of `version`, or of the one before the head.

    Raises BadData where there is no such version of our own to go back to, or no reason; LocalFailure when a run is at
    work on the path, a file of the old version is gone, or another release was made meanwhile. All of it is one
    transaction, the rows of undone updates aside, which are taken out of the validation rows before.
    """
    if not why.strip():
        raise BadData("going back needs a reason", "--why 'the reason'")
    with run_lock(node.home, path):
        head, target, undone = _versions(node, path, version)
        for file in release_files(target.release):
            node.blobs.open_verified(file.sha256)
        link = signed_link(_release(node, head, target, why.strip(), now), node.key)
        updates = _updates(node, [row.digest for row in undone])
        _forget(node, path, updates)  # first: rows that are gone judge nothing, whether or not the rest comes to be
        with node.store.transaction() as session:
            _store(node, session, head, link, updates, why.strip(), now)
    return RolledBack(
        path=str(path),
        version=link.release.version,
        digest=link.digest,
        content_of=target.release.version,
        undone=tuple(row.version for row in undone),
        updates=tuple(row.digest for row in updates),
    )


def _versions(node: Node, path: NodePath, version: int | None) -> tuple[Link, Link, list[ReleaseRow]]:
    """The head, the release to go back to, and those in between that are undone, oldest first."""
    wanted = select(ReleaseRow).where(ReleaseRow.path == str(path), ReleaseRow.own).order_by(ReleaseRow.version)
    with node.store.read() as session:
        head = session.get(HeadRow, str(path))
        own = list(session.scalars(wanted))
        rollbacks = set(session.scalars(select(DecisionRow.subject).where(DecisionRow.kind == ROLLBACK)))
    served = next((row for row in own if head is not None and row.digest == head.release), None)
    if served is None:
        raise BadData(f"this node serves no release of its own at {path}", "node tree")
    if version is None and served.digest in rollbacks:
        raise BadData(f"{path}@v{served.version} went back already", "say where to: --to VERSION; node tree shows them")
    before = [row for row in own if row.version < served.version and version in (None, row.version)]
    if not before:
        versions = ", ".join(str(row.version) for row in own if row.version < served.version) or "none"
        raise BadData(f"there is no such older version of {path}; there are: {versions}", "--to one of these")
    target = before[-1]
    undone = [row for row in own if target.version < row.version <= served.version]
    return _link(node, served), _link(node, target), undone


def _link(node: Node, row: ReleaseRow) -> Link:
    """A release of which all that is above it is here too."""
    return stored_chain(node.store, node.blobs, row.digest)[-1]


def _release(node: Node, head: Link, target: Link, why: str, now: datetime) -> Release:
    """The content of the target under the next version."""
    card = _card(node, head.release, target.release, why)
    return target.release.model_copy(
        update={
            "version": head.release.version + 1,
            "previous": head.digest,
            "card": stored_card(node.blobs, card),
            "created": now,
            "expires": now + timedelta(days=node.settings.release_valid_days),
        }
    )


def _card(node: Node, head: Release, target: Release, why: str) -> str:
    version = head.version + 1
    return render_next_card(
        node.blobs.read(target.card.sha256, MAX_CARD_BYTES).decode(),
        Ref(NodePath.parse(target.path), version),
        target.base_name,
        evaluations=target.evaluations,
        summary=f"Version {version} of {target.path} is version {target.version} again and undoes what came after it, "
        f"up to version {head.version}: {why}",
    )


def _updates(node: Node, releases: Sequence[str]) -> list[UpdateRow]:
    """The updates that went into some releases."""
    wanted = select(UpdateRow).where(
        UpdateRow.direction == "in", UpdateRow.release.in_(releases), UpdateRow.state.in_(("released", "announced"))
    )
    with node.store.read() as session:
        return list(session.scalars(wanted.order_by(UpdateRow.digest)))


def _forget(node: Node, path: NodePath, updates: Sequence[UpdateRow]) -> None:
    """Take the rows that came with the undone updates away from those that candidates are judged on."""
    for row in updates:
        _, update = load_update(node.store, row.digest)
        rows = _travelled(node, update)
        for place in (path, NodePath.parse(update.path)) if rows else ():
            remove_validation(node.home, place, rows)


def _travelled(node: Node, update: AnyOffering) -> list[Row]:
    """The rows that came with an update, as far as its file is still here."""
    file = travelled_file(update)
    return [one.row for one in travelled(node.blobs, update)] if file and node.blobs.has(file.sha256) else []


def _store(
    node: Node, session: Session, head: Link, link: Link, updates: Sequence[UpdateRow], why: str, now: datetime
) -> None:
    """The new head, the decision and the states of the updates, together."""
    served = session.get(HeadRow, link.release.path)
    if served is None or served.release != head.digest:
        raise LocalFailure(f"{link.release.path} got another release meanwhile", "look at it, then go back again")
    serve(session, link, now)
    body = {"why": why, "instead_of": head.digest, "updates": [row.digest for row in updates]}
    session.add(DecisionRow(at=now, kind=ROLLBACK, subject=link.digest, body=json.dumps(body)))
    append(session, log_entry("release.rolled-back", head.digest, now, by="person", document=link.envelope))
    check = CheckResult(
        name="rollback", value=None, threshold=None, passed=False, cost_ms=0.0,
        reason=f"version {head.release.version} of {head.release.path} was undone: {why}",
    )  # fmt: skip
    for row in updates:
        undo(session, row.digest, check, Identity(node.key, node.paths), now)
