"""The log of this node: its signed checkpoints, the promise that the newest of them is, and the whole once more.

Leaves are appended where decisions are made (`registry.log.leaves.append`). What others' logs show is left to
`node.watched_logs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from node.context import Node
from registry.errors import BadData, LocalFailure
from registry.log.checkpoint import MAX_NOTE_BYTES, Checkpoint, origin_of, peek_checkpoint, sign_checkpoint
from registry.log.entry import LogEntry
from registry.log.leaves import leaf_rows, log_root, log_size, rehash
from registry.store import Session, Store, select
from registry.tables import LogCheckpointRow, LogLeafRow
from registry.trust.files import write_whole


@dataclass(frozen=True, slots=True)
class Logged:
    """One leaf: where it stands and what it says."""

    position: int
    leaf: str
    entry: LogEntry


def newest_checkpoint(node: Node, now: datetime) -> str | None:
    """The newest checkpoint, made anew where the log grew and the last one is old enough (L6); None of an empty log.

    Raises LocalFailure where the database is older than a checkpoint that was given out (L7).
    """
    with node.store.read() as session:
        last, size = _last(session), log_size(session)
    promised = _promised(node.home.log_checkpoint)
    given_out = promised.size if promised is not None else 0
    age_s = (now - last.created).total_seconds() if last is not None else 0.0
    is_due = last is None or last.size < given_out or not 0 <= age_s < node.settings.log_checkpoint_interval_s
    if is_due and size > (last.size if last is not None else 0):
        last = _make_checkpoint(node, now)
    if (last.size if last is not None else 0) != given_out:
        last = _promise(node)
    return last.note if last is not None else None


def check_promise(session: Session, file: Path) -> None:
    """Raise LocalFailure where the log is not the one that the newest served checkpoint was of (L7)."""
    promised = _promised(file)
    if promised is None:
        return
    size = log_size(session)
    if size < promised.size or log_root(session, promised.size) != promised.root:
        raise LocalFailure(
            f"the log of this node has {size} leaves and is not the one of which it gave out a checkpoint with "
            f"{promised.size}: the database is an older copy, or was changed",
            f"restore a newer copy; if there is none, remove {file}: whoever has seen that checkpoint will find that "
            "this node began another log, so tell them first",
        )


def problems_of_log(store: Store, file: Path) -> list[str]:
    """Hash the whole log again, against every checkpoint and the one that was given out last (L8)."""
    with store.read() as session:
        roots = {row.size: peek_checkpoint(row.note).root for row in session.scalars(select(LogCheckpointRow))}
        problems = rehash(session, roots)
    try:
        with store.read() as session:  # of now: a daemon may have given out more since the first look
            check_promise(session, file)
    except LocalFailure as error:
        problems.append(error.message)
    return problems


def last_entries(node: Node, count: int) -> list[Logged]:
    """The newest leaves, the oldest of them first."""
    with node.store.read() as session:
        return [logged(row) for row in leaf_rows(session, max(log_size(session) - count, 0), count)]


def logged(row: LogLeafRow) -> Logged:
    """A leaf as it was stored."""
    return Logged(row.position, row.leaf, LogEntry.from_bytes(row.entry))


def _make_checkpoint(node: Node, now: datetime) -> LogCheckpointRow:
    with node.store.transaction() as session:
        check_promise(session, node.home.log_checkpoint)
        last, size = _last(session), log_size(session)
        if last is not None and size <= last.size:
            return last  # another process was quicker
        origin = peek_checkpoint(last.note).origin if last else origin_of(node.key.public)
        note = sign_checkpoint(Checkpoint(origin, size, log_root(session, size)), node.key)
        row = LogCheckpointRow(size=size, note=note, created=now)
        session.add(row)
    return row


def _last(session: Session) -> LogCheckpointRow | None:
    return session.scalars(select(LogCheckpointRow).order_by(LogCheckpointRow.size.desc()).limit(1)).first()


def _promise(node: Node) -> LogCheckpointRow | None:
    """Keep the newest checkpoint outside the database before anybody is given it; the file never goes back (L7)."""
    file = node.home.log_checkpoint
    with node.store.transaction() as session:  # alone among all processes
        check_promise(session, file)
        newest = _last(session)
        if newest is not None:
            write_whole(file, newest.note.encode())
    return newest


def _promised(file: Path) -> Checkpoint | None:
    try:
        with file.open(encoding="utf-8") as source:
            return peek_checkpoint(source.read(MAX_NOTE_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, BadData) as error:
        raise LocalFailure(f"cannot read the newest checkpoint in {file}", "restore it from a backup") from error
