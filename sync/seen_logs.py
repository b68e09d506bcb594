"""What was seen of others' logs: one checkpoint that is held, those that wait to be compared with it, and evidence.

A checkpoint that was seen is compared with the one that is held of the same log; then it is held instead, or
forgotten, or evidence of a split view. Which checkpoints are seen, and who is asked for proofs, is left to the callers.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from registry.keys import KeyId, PublicKey
from registry.log.checkpoint import STANDINGS, Checkpoint, Standing, compare, peek_checkpoint
from registry.log.merkle import Proof
from registry.store import Session, Store, func, select
from registry.tables import LogSplitRow, SeenCheckpointRow

log = logging.getLogger(__name__)

MAX_TOLD: Final = 64  # of one log, waiting to be compared
MAX_SPLITS: Final = 16  # kept of one log; one of them proves it
LATE: Final = timedelta(hours=1)

Prove = Callable[[int, int], Proof | None]  # two sizes, the smaller first; None where there is no answer


@dataclass(frozen=True, slots=True)
class Seen:
    """A verified checkpoint, its note, whose log it is of, and who showed it."""

    key: PublicKey
    checkpoint: Checkpoint
    note: str
    source: str


def see(session: Session, seen: Seen, now: datetime, *, may_be_first: bool) -> None:
    """Note a checkpoint, once, to be settled; `may_be_first`: hold it where none is held. MAX_TOLD of a log wait."""
    key_id = seen.key.id
    count = select(func.count()).select_from(SeenCheckpointRow).where(SeenCheckpointRow.key_id == key_id)
    is_held = may_be_first and held(session, key_id) is None
    known = session.get(SeenCheckpointRow, (key_id, seen.checkpoint.size, seen.checkpoint.root.hex()))
    if known is not None:
        known.held = known.held or is_held
    elif is_held or session.scalars(count).one() <= MAX_TOLD:
        session.add(_row(seen, now, is_held=is_held))


def witness(session: Session, seen: Seen, now: datetime) -> str | None:
    """Hold the largest checkpoint of a log that this node cannot ask; the note of the one that was held before.

    Whoever shows another checkpoint gets that note and can ask the log to prove itself. Of one size it is told here.
    """
    before = held(session, seen.key.id)
    if before is not None and compare(seen.checkpoint, peek_checkpoint(before.note), None) == "split":
        keep_split(session, seen, before.note, before.source, now)
    elif before is None or seen.checkpoint.size > before.size:
        if before is not None:
            session.delete(before)
            session.flush()
        session.add(_row(seen, now, is_held=True))
    return before.note if before is not None else None


def settle(store: Store, key: PublicKey, prove: Prove, now: datetime) -> Standing:
    """Compare everything that waits with what is held (L10); the worst that came of it.

    A log that leaves one question unanswered is asked no other in this call.
    """
    with store.read() as session:
        first = held(session, key.id)
        rows = _rows(session, key.id, is_held=False)
    if first is None:
        return "cannot tell"
    mine, found = first.note, set[Standing]({"consistent"})
    for row in rows:
        standing = standing_of(peek_checkpoint(mine), peek_checkpoint(row.note), prove)
        found.add(standing)
        if standing == "cannot tell":
            prove = _unanswered  # not again in this round: each question may take as long as its limit
        else:
            mine = _conclude(store, Seen(key, peek_checkpoint(row.note), row.note, row.source), standing, now)
    return max(found, key=STANDINGS.index)


def standing_of(one: Checkpoint, other: Checkpoint, prove: Prove) -> Standing:
    """The rule of `compare`; a proof is only asked for where it is needed."""
    first, second = sorted((one.size, other.size))
    known = compare(one, other, None)
    return known if known != "cannot tell" else compare(one, other, prove(first, second))


def held(session: Session, key_id: KeyId) -> SeenCheckpointRow | None:
    """The checkpoint of a log that others are compared with."""
    return next(iter(_rows(session, key_id, is_held=True)), None)


def keep_split(session: Session, seen: Seen, note: str, source: str, now: datetime) -> None:
    """Keep two notes of one key that contradict each other and, the first time, tell of it as an error."""
    first, second = sorted((note, seen.note))
    digest = hashlib.sha256(f"{first}\n{second}".encode()).hexdigest()
    if session.get(LogSplitRow, digest) is not None:
        return
    count = select(func.count()).select_from(LogSplitRow).where(LogSplitRow.key_id == seen.key.id)
    log.error(
        "SPLIT VIEW: key %s (fingerprint %s) signed two logs: %r from %s and %r from %s; see node log verify",
        seen.key.id,
        seen.key.fingerprint,
        peek_checkpoint(note).text,
        source,
        seen.checkpoint.text,
        seen.source,
    )
    if session.scalars(count).one() < MAX_SPLITS:
        sources = f"{source}, {seen.source}"
        session.add(
            LogSplitRow(digest=digest, key_id=seen.key.id, first=first, second=second, sources=sources, found=now)
        )


def splits(store: Store) -> list[LogSplitRow]:
    """The evidence of split views, the latest first."""
    with store.read() as session:
        return list(session.scalars(select(LogSplitRow).order_by(LogSplitRow.found.desc(), LogSplitRow.digest)))


def late(store: Store, now: datetime) -> list[SeenCheckpointRow]:
    """What waits to be compared for more than LATE: its node does not prove that its log only grew."""
    with store.read() as session:
        wanted = select(SeenCheckpointRow).where(SeenCheckpointRow.held.is_(False), SeenCheckpointRow.seen < now - LATE)
        return list(session.scalars(wanted))


def _unanswered(first: int, second: int) -> None:  # noqa: ARG001  the signature of Prove
    return None


def _conclude(store: Store, seen: Seen, standing: Standing, now: datetime) -> str:
    """Hold a larger one that fits, forget a smaller one, keep a split; the note that is held then."""
    with store.transaction() as session:
        before = held(session, seen.key.id)
        row = session.get(SeenCheckpointRow, (seen.key.id, seen.checkpoint.size, seen.checkpoint.root.hex()))
        if before is None or row is None or row.held:  # another process was quicker
            return before.note if before is not None else seen.note
        if standing == "split":
            keep_split(session, seen, before.note, before.source, now)
        if standing == "consistent" and row.size > before.size:
            session.delete(before)
            row.held = True
            return row.note
        session.delete(row)
        return before.note


def _rows(session: Session, key_id: KeyId, *, is_held: bool) -> list[SeenCheckpointRow]:
    """What was seen of a log, the smallest first."""
    wanted = select(SeenCheckpointRow).where(SeenCheckpointRow.key_id == key_id, SeenCheckpointRow.held.is_(is_held))
    return list(session.scalars(wanted.order_by(SeenCheckpointRow.size, SeenCheckpointRow.root)))


def _row(seen: Seen, now: datetime, *, is_held: bool) -> SeenCheckpointRow:
    return SeenCheckpointRow(
        key_id=seen.key.id,
        size=seen.checkpoint.size,
        root=seen.checkpoint.root.hex(),
        note=seen.note,
        source=seen.source[:300],
        held=is_held,
        seen=now,
    )
