"""What the log of decisions must show of a home of `tests.daemon_tree`, whenever its processes were killed.

Seen from outside: from the decisions and documents in the database, and from what the other nodes were given.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from node.context import Node, opened_node
from node.own_log import problems_of_log
from node.settings import load_settings
from registry.documents import Verdict
from registry.envelope import peek_payload
from registry.errors import BanyanError
from registry.keys import PublicKey
from registry.log.checkpoint import open_checkpoint, peek_checkpoint
from registry.log.entry import LogEntry, LoggedCheck
from registry.log.leaves import log_root, log_size, prove_consistency
from registry.log.merkle import check_consistency
from registry.store import Session, select
from registry.tables import (
    DecisionRow,
    LogCheckpointRow,
    LogLeafRow,
    LogSplitRow,
    PeerRow,
    ReleaseRow,
    SeenCheckpointRow,
    UpdateRow,
)
from sync.lifecycle import LOGGED

UNDONE = "update.undone"
SERVED = {"release.served": "release.made"}


def log_problems(node: Node) -> Iterator[str]:
    """Decisions without their leaf, leaves without their decision, and everything that does not verify (L1, L5, L8)."""
    yield from problems_of_log(node.store, node.home.log_checkpoint)
    with node.store.read() as session:
        yield from _unsigned(session, node.key.public)
        leaves = [LogEntry.from_bytes(row.entry) for row in _leaves(session)]
        decided, logged = Counter(_decided(session)), Counter((leaf.kind, leaf.subject) for leaf in leaves)
        yield from (f"the decision {kind} on {subject:.16} has no leaf" for kind, subject in decided - logged)
        concerned = Counter({one: count for one, count in logged.items() if one[0].startswith(("update.", "release."))})
        yield from (f"the leaf {kind} on {subject:.16} has no decision" for kind, subject in concerned - decided)
        yield from _other_words(session, {leaf.subject: leaf for leaf in leaves})


def unproven(parent: Path, children: Sequence[Path]) -> list[str]:
    """What the parent's children were given and its log does not bear out: verdicts, and checkpoints (L10, L12)."""
    given, notes, found = list[tuple[str, str]](), list[str](), list[str]()
    for home in children:  # before the parent's log is read, which only grows
        with opened_node(load_settings({"home": home})) as node, node.store.read() as session:
            keys = set(session.scalars(select(PeerRow.key_id).where(PeerRow.role == "parent")))
            seen = select(SeenCheckpointRow.note).where(SeenCheckpointRow.key_id.in_(keys))
            notes += session.scalars(seen)
            found += [f"{home.name} holds evidence of two logs" for _ in session.scalars(select(LogSplitRow))]
            sent = select(UpdateRow).where(UpdateRow.direction == "out", UpdateRow.verdict.is_not(None))
            given += [(row.digest, hashlib.sha256(row.verdict or b"").hexdigest()) for row in session.scalars(sent)]
    with opened_node(load_settings({"home": parent})) as node, node.store.read() as session:
        leaves = [LogEntry.from_bytes(row.entry) for row in _leaves(session)]
        documents = {(leaf.subject, leaf.document) for leaf in leaves}
        found += [f"the acknowledged verdict on {digest:.16} has no leaf" for digest, of in set(given) - documents]
        found += [one for note in notes for one in _no_beginning(session, note, node.key.public)]
    return found


def _leaves(session: Session) -> Iterator[LogLeafRow]:
    yield from session.scalars(select(LogLeafRow).order_by(LogLeafRow.position))


def _unsigned(session: Session, key: PublicKey) -> Iterator[str]:
    """Checkpoints that the node's key has not signed."""
    for row in session.scalars(select(LogCheckpointRow)):
        try:
            open_checkpoint(row.note, key)
        except BanyanError as error:
            yield error.message


def _decided(session: Session) -> Iterator[tuple[str, str]]:
    """The kinds and subjects of the leaves that follow from the decisions about updates and releases."""
    for row in session.scalars(select(DecisionRow).order_by(DecisionRow.id)):
        if row.kind in SERVED:
            yield SERVED[row.kind], row.subject
        elif "verdict" in json.loads(row.body) and row.kind.startswith("update."):
            yield LOGGED.get(row.kind.removeprefix("update."), LOGGED["rejected"]), row.subject


def _other_words(session: Session, newest: dict[str, LogEntry]) -> Iterator[str]:
    """Updates whose newest leaf is not about the verdict that stands, or does not hold its checks; the same of releases
    that were signed here and have none."""
    decided = select(UpdateRow).where(UpdateRow.direction == "in", UpdateRow.verdict.is_not(None))
    for row in session.scalars(decided):
        envelope, leaf = row.verdict or b"", newest.get(row.digest)
        if leaf is None or leaf.document != hashlib.sha256(envelope).hexdigest():
            yield f"the verdict on {row.digest:.16}, which is {row.state}, is not what the log says"
            continue
        checks = Verdict.from_bytes(peek_payload(envelope)).checks
        said = [LoggedCheck(name=c.name, value=c.value, threshold=c.threshold, passed=c.passed) for c in checks]
        if row.state != "undone" and leaf.checks != tuple(said):
            yield f"the log holds other checks of {row.digest:.16} than its verdict"
    for digest in session.scalars(select(ReleaseRow.digest).where(ReleaseRow.own)):
        if digest not in newest:
            yield f"the release {digest:.16} was signed here and has no leaf"


def _no_beginning(session: Session, note: str, key: PublicKey) -> Iterator[str]:
    """A checkpoint that was given out and that the log of now does not continue."""
    size = log_size(session)
    try:
        seen, _ = open_checkpoint(note, key)
        proof = prove_consistency(session, seen.size, size)
        check_consistency(seen.size, seen.root, size, log_root(session, size), proof)
    except BanyanError as error:
        yield f"a checkpoint of {peek_checkpoint(note).size} leaves was given out: {error.message}"
