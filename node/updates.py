"""The updates that this node sent and took in, and the releases that came: a list, and one with every check.

Of one that was sent, the parent is asked how it stands; its verdict counts when its signature holds.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from node.context import Node, parent_of
from node.former_keys import own_keys, parent_keys
from registry.documents import AnyOffering, CheckResult, Release, Verdict, open_document, open_offering
from registry.envelope import peek_payload
from registry.errors import BadData, BanyanError, LocalFailure
from registry.keys import PublicKey
from registry.store import select
from registry.tables import ArrivalRow, Direction, PeerRow, UpdateRow
from sync.arrivals import arrivals, verdict_on
from sync.lifecycle import load_update, results_of
from sync.push import Standing, standing

PREFIX = re.compile(r"[0-9a-f]{4,64}")


@dataclass(frozen=True, slots=True)
class UpdateSummary:
    """One line of the list. `release`: the release that it went into, or, of one that was sent, that it offers.

    A release that came from the parent has the kind `release`; its version stands as its sequence.
    """

    digest: str
    direction: Direction
    issuer: str
    path: str
    sequence: int
    state: str
    received: datetime
    changed: datetime
    release: str | None
    kind: Literal["update", "release"] = "update"


@dataclass(frozen=True, slots=True)
class UpdateDetail:
    """One update: what was signed, the verdict if there is one, the checks so far, and what hindered asking."""

    summary: UpdateSummary
    update: AnyOffering | Release
    verdict: Verdict | None
    checks: tuple[CheckResult, ...]
    problem: str


def list_updates(node: Node, direction: Direction | None = None) -> list[UpdateSummary]:
    """The updates of this node, the latest first, as they were known when it last looked."""
    wanted = select(UpdateRow).order_by(UpdateRow.changed.desc(), UpdateRow.digest)
    with node.store.read() as session:
        rows = session.scalars(wanted if direction is None else wanted.where(UpdateRow.direction == direction)).all()
    found = [_summary(row) for row in rows]
    if direction != "out":
        found += [_arrived(row) for row in arrivals(node.store)]
    return sorted(found, key=lambda one: one.changed, reverse=True)


def show_update(node: Node, digest: str, now: datetime) -> UpdateDetail:
    """One update by its digest or the beginning of it. LocalFailure when there is none, BadData when there are two.

    When the parent does not answer, what is known is given, with the reason in `problem`.
    """
    row = _find(node, digest)
    if isinstance(row, ArrivalRow):
        release, held = Release.from_bytes(peek_payload(row.envelope)), verdict_on(row, node.key)
        return UpdateDetail(_arrived(row), release, held, held.checks, "")
    if row.direction == "in":
        update = load_update(node.store, row.digest)[1]
        verdict = _verdict(row.verdict, row.digest, [node.key.public]) if row.verdict is not None else None
        return UpdateDetail(_summary(row), update, verdict, results_of(row), "")
    update = open_offering(row.envelope, own_keys(node))[0]
    parent, problem = parent_of(node), ""
    try:
        row = keep_standing(node, row.digest, standing(node.peer(parent.url), row.digest), parent, now)
    except BanyanError as error:
        problem = error.message
    verdict = outcome_of(node, row, parent)
    return UpdateDetail(_summary(row), update, verdict, verdict.checks if verdict else (), problem)


def keep_standing(node: Node, digest: str, where: Standing, parent: PeerRow, now: datetime) -> UpdateRow:
    """Store what the parent says of an update that was sent to it (V8).

    Raises BadData when its verdict does not hold.
    """
    envelope = where.verdict.encode("ascii", "replace") if where.verdict is not None else None
    if envelope is not None:
        _verdict(envelope, digest, [PublicKey.from_hex(parent.public_key)])
    with node.store.transaction() as session:
        row = session.get(UpdateRow, digest)
        if row is None or row.direction != "out":
            raise LocalFailure(f"no update {digest} was sent from here", "node updates")
        if (row.state, row.verdict) != (where.state, envelope or row.verdict):
            row.state, row.verdict, row.changed = where.state, envelope or row.verdict, now
    return row


def outcome_of(node: Node, row: UpdateRow, parent: PeerRow) -> Verdict | None:
    """The parent's verdict on an update that was sent, as far as it is known here."""
    return _verdict(row.verdict, row.digest, parent_keys(node, parent)) if row.verdict is not None else None


def _verdict(envelope: bytes, digest: str, signers: list[PublicKey]) -> Verdict:
    verdict = open_document(envelope, Verdict, signers)[0]
    if verdict.update != digest:
        raise BadData(f"the verdict is on another update: {verdict.update}", "tell the parent's operator")
    return verdict


def _find(node: Node, digest: str) -> UpdateRow | ArrivalRow:
    if not PREFIX.fullmatch(digest):
        raise BadData(f"not the beginning of a digest: {digest!a:.80}", "give at least 4 characters: node updates")
    with node.store.read() as session:
        rows: list[UpdateRow | ArrivalRow] = [
            *session.scalars(select(UpdateRow).where(UpdateRow.digest.startswith(digest)).limit(2)),
            *session.scalars(select(ArrivalRow).where(ArrivalRow.digest.startswith(digest)).limit(2)),
        ]
    if not rows:
        raise LocalFailure(f"there is no update {digest} here", "node updates")
    if len(rows) > 1:
        raise BadData(f"several updates begin with {digest}", "give more of the digest")
    return rows[0]


def _arrived(row: ArrivalRow) -> UpdateSummary:
    return UpdateSummary(
        digest=row.digest,
        direction="in",
        issuer=row.signer,
        path=row.path,
        sequence=row.version,
        state=row.state,
        received=row.received,
        changed=row.changed,
        release=None,
        kind="release",
    )


def _summary(row: UpdateRow) -> UpdateSummary:
    offered = json.loads(row.detail).get("release") if row.direction == "out" else None
    return UpdateSummary(
        digest=row.digest,
        direction=row.direction,
        issuer=row.issuer,
        path=row.path,
        sequence=row.sequence,
        state=row.state,
        received=row.received,
        changed=row.changed,
        release=row.release or offered,
    )
