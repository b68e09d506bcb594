"""The parent's inbox: takes in updates, and shows where each stands.

`receive` takes the envelope, `append_file` its files (`sync.uploads`), `advance` moves an update by one arrow towards
its verdict (`sync.review`), `mark` along the way into a release (`sync.lifecycle`). Every arrow is one transaction, so
a process can be killed anywhere and the same call made again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from registry.blobs import BlobStore
from registry.documents import AnyOffering, CheckResult, File, open_offering
from registry.envelope import peek_signer
from registry.errors import LocalFailure
from registry.keys import KeyId
from registry.paths import NodePath
from registry.store import Session, Store, func, select
from registry.tables import HeadRow, ReleaseRow, SequenceRow, UpdateRow
from sync.checks.envelope import Limits, Pinned, Standing, check_envelope
from sync.enrolled import Identity, NotEnrolled, speaker
from sync.lifecycle import (
    UNDECIDED,
    State,
    UnknownUpdate,
    accepted,
    conclude,
    keep_results,
    load_update,
    mark,
    record,
    results_of,
    state_of,
    undecided,
    unfinished,
    verdict_of,
)
from sync.review import Checks, advance, settle
from sync.uploads import append_file, file_offset, files_of, is_here
from sync.verdict import failed, write_verdict

__all__ = [
    "Busy",
    "Checks",
    "Identity",
    "Limits",
    "NotEnrolled",
    "Receipt",
    "State",
    "UnknownUpdate",
    "accepted",
    "advance",
    "append_file",
    "file_offset",
    "mark",
    "receipt_of",
    "receive",
    "settle",
    "undecided",
    "unfinished",
    "verdict_of",
]

DEFAULT_LIMITS: Final = Limits()


class Busy(LocalFailure):
    """Too much waits already: nothing was stored, and the same bytes are welcome later."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where an update stands: which files are still to be sent, which checks it failed, the signed verdict if any."""

    digest: str
    state: State
    missing: list[File]
    failed: list[CheckResult]
    verdict: bytes | None


def receive(
    store: Store,
    blobs: BlobStore,
    envelope: bytes,
    own: Identity,
    now: datetime,
    *,
    limits: Limits = DEFAULT_LIMITS,
    stopwatch: Callable[[], float] = time.perf_counter,
) -> Receipt:
    """Take in the envelope of an update (U1, U2, U3, U4). The same bytes get the same receipt, however often they come.

    An update that fails a check of the envelope is stored with its signed verdict, and its state is `rejected`;
    `stopwatch` (seconds) measures what each check took.

    Raises:
        NotEnrolled: the key that signed it is unknown, revoked, expired or not yet enrolled; nothing is stored.
        BadData: it is not a signed update; nothing is stored.
        Busy: too many updates wait, or came today; nothing is stored, send it again later.
    """
    digest = hashlib.sha256(envelope).hexdigest()
    with store.read() as session:
        is_known = session.get(UpdateRow, digest) is not None
        keys = [] if is_known else [speaker(session, peek_signer(envelope), own, now).key]
    if not is_known:
        update, _ = open_offering(envelope, keys)
        row = _new_row(update, envelope, now)
        with store.transaction() as session:
            is_first = session.get(UpdateRow, digest) is None
            if is_first:
                _refuse_crowds(session, update.issuer, limits, now)
                standing = _standing(session, row, update, own)
                _take_in(session, row, own, check_envelope(update, standing, limits, stopwatch))
        if is_first:
            return _receipt(row, update, blobs)
    return receipt_of(store, blobs, digest)


def receipt_of(store: Store, blobs: BlobStore, digest: str) -> Receipt:
    """Where an update stands now; raises UnknownUpdate."""
    return _receipt(*load_update(store, digest), blobs)


def _receipt(row: UpdateRow, update: AnyOffering, blobs: BlobStore) -> Receipt:
    missing = [file for file in files_of(update) if not is_here(blobs, file)] if row.state == "received" else []
    problems = failed(results_of(row)) if row.state in ("rejected", "quarantined") else []
    return Receipt(row.digest, state_of(row), missing, problems, row.verdict)


def _new_row(update: AnyOffering, envelope: bytes, now: datetime) -> UpdateRow:
    return UpdateRow(
        digest=hashlib.sha256(envelope).hexdigest(),
        direction="in",
        issuer=update.issuer,
        path=update.path,
        sequence=update.sequence,
        state="received",
        envelope=envelope,
        received=now,
        changed=now,
    )


def _standing(session: Session, row: UpdateRow, update: AnyOffering, own: Identity) -> Standing:
    """What is known of the sender when an update comes in."""
    sequence = session.get(SequenceRow, (update.issuer, update.path))
    return Standing(
        now=row.received,
        audience=own.key.public.id,
        paths=own.paths,
        enrolled=speaker(session, update.issuer, own, row.received).places,  # again, now that nobody else can write
        pinned=_pinned(session, update.release.digest),
        highest=sequence.highest if sequence else 0,
    )


def _take_in(session: Session, row: UpdateRow, own: Identity, results: list[CheckResult]) -> None:
    """Store an update, and reject it at once where its words are wrong (U6, U7).

    Only what was taken uses up its sequence.
    """
    keep_results(row, results)
    session.add(row)
    record(session, row, row.received)
    if failed(results):
        conclude(session, row, write_verdict(row.digest, "rejected", results, row.received), own.key)
        return
    sequence = session.get(SequenceRow, (row.issuer, row.path))
    if sequence is not None:
        sequence.highest = row.sequence
    else:
        session.add(SequenceRow(issuer=row.issuer, path=row.path, highest=row.sequence))


def _pinned(session: Session, digest: str) -> Pinned | None:
    row = session.get(ReleaseRow, digest)
    if row is None or not row.own:
        return None
    served = select(ReleaseRow.version).join(HeadRow, HeadRow.release == ReleaseRow.digest)
    newest = session.scalar(served.where(HeadRow.path == row.path))
    return Pinned(NodePath.parse(row.path), row.version, row.base, row.version if newest is None else newest)


def _refuse_crowds(session: Session, issuer: KeyId, limits: Limits, now: datetime) -> None:
    """Bounds on what waits and on what one key sends (U5)."""
    incoming = select(func.count()).select_from(UpdateRow).where(UpdateRow.direction == "in")
    waiting = incoming.where(UpdateRow.state.in_(UNDECIDED))
    today = incoming.where(UpdateRow.issuer == issuer, UpdateRow.received > now - timedelta(days=1))
    bounds = (
        ("updates of this key wait", waiting.where(UpdateRow.issuer == issuer), limits.pending_per_issuer),
        ("updates wait", waiting, limits.pending),
        ("updates of this key came in the last 24 hours", today, limits.per_day_and_issuer),
    )
    counts = session.execute(select(*(query.scalar_subquery() for _, query, _ in bounds))).one()
    for count, (what, _, limit) in zip(counts, bounds, strict=True):
        if count >= limit:
            raise Busy(f"{count} {what}, the limit is {limit}", "send the same update again later")
