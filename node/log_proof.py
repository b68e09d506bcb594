"""That a decision is in a log: from our own log, or from the parent's for an update that was sent to it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from node.context import Node, parent_of
from node.own_log import newest_checkpoint
from node.updates import PREFIX
from node.watched_logs import see_parent_log
from registry.errors import BadData, LocalFailure
from registry.keys import PublicKey
from registry.log.checkpoint import peek_checkpoint
from registry.log.entry import LogEntry
from registry.log.leaves import entries_about, prove_inclusion
from registry.store import select
from registry.tables import LogLeafRow, UpdateRow
from sync.peer_log import MAX_ENTRIES, fetch_entries


@dataclass(frozen=True, slots=True)
class Proven:
    """One leaf: where it stands, what it says, and the hashes (hex) that lead from it to the root."""

    position: int
    entry: LogEntry
    proof: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LogProof:
    """Everything that a log says about a subject, and the checkpoint that it is proven against."""

    subject: str
    log: str
    checkpoint: str
    entries: list[Proven]


def prove(node: Node, digest: str, now: datetime) -> LogProof:
    """The proof for a digest or the beginning of one (L12).

    Raises LocalFailure where no log holds anything about it, or nothing that a checkpoint covers yet; BadData where
    the parent's log holds another verdict than the one that it sent.
    """
    sent = _sent(node, digest)
    return _prove_at_parent(node, sent, now) if sent is not None else _prove_here(node, _subject(node, digest), now)


def _prove_here(node: Node, subject: str, now: datetime) -> LogProof:
    note = newest_checkpoint(node, now)
    size = peek_checkpoint(note).size if note is not None else 0
    with node.store.read() as session:
        rows = [row for row in entries_about(session, subject, MAX_ENTRIES) if row.position < size]
        entries = [
            Proven(
                row.position,
                LogEntry.from_bytes(row.entry),
                tuple(one.hex() for one in prove_inclusion(session, row.position, size)),
            )
            for row in rows
        ]
    if note is None or not entries:
        wait = f"repeat within {node.settings.log_checkpoint_interval_s:g} s"
        raise LocalFailure("no checkpoint covers what the log says about it yet", wait)
    return LogProof(subject, peek_checkpoint(note).origin, note, entries)


def _prove_at_parent(node: Node, row: UpdateRow, now: datetime) -> LogProof:
    parent = parent_of(node)
    peer = node.peer(parent.url)
    note = see_parent_log(node, PublicKey.from_hex(parent.public_key), peer, now)
    checkpoint = peek_checkpoint(note)
    found = fetch_entries(peer, row.digest, checkpoint)
    if not found:
        raise LocalFailure(
            f"the log of {parent.url} says nothing about update {row.digest} yet",
            "node updates show it; once there is a verdict, a checkpoint covers it within a minute",
        )
    if row.verdict is not None:
        verdict = hashlib.sha256(row.verdict).hexdigest()
        if verdict not in {entry.document for _, entry in found}:
            raise BadData(
                f"the verdict that {parent.url} sent is not in its log, which says: "
                + ", ".join(entry.kind for _, entry in found),
                "ask the parent's operator; node log verify --peer parent",
            )
    entries = [Proven(one.position, entry, one.proof) for one, entry in found]
    return LogProof(row.digest, checkpoint.origin, note, entries)


def _sent(node: Node, digest: str) -> UpdateRow | None:
    """The update that was sent from here and begins with `digest`."""
    if not PREFIX.fullmatch(digest):
        raise BadData(f"not the beginning of a digest: {digest!a:.80}", "give at least 4 characters: node log show")
    with node.store.read() as session:
        wanted = select(UpdateRow).where(UpdateRow.direction == "out", UpdateRow.digest.startswith(digest))
        return session.scalars(wanted).first()


def _subject(node: Node, digest: str) -> str:
    with node.store.read() as session:
        wanted = select(LogLeafRow.subject).where(LogLeafRow.subject.startswith(digest)).distinct()
        found = list(session.scalars(wanted.limit(2)))
    if not found:
        raise LocalFailure(f"the log says nothing about {digest}", "node log show")
    if len(found) > 1:
        raise BadData(f"several subjects in the log begin with {digest}", "give more of the digest")
    return found[0]
