"""The log in the database: appending an entry in the transaction that decides it, roots, proofs, the whole once more.

Each leaf's row also holds the hashes of the complete subtrees that the leaf finishes, the leaf's own first, so that a
tree of any size is read in O(log n) rows and nothing stored ever changes. Signing is left to `registry.log.checkpoint`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from registry.errors import BadData, LocalFailure
from registry.log.entry import LogEntry
from registry.log.merkle import (
    HASH_BYTES,
    BadProof,
    Frontier,
    Span,
    Subtree,
    consistency_spans,
    fold,
    inclusion_spans,
    leaf_hash,
    subtrees,
)
from registry.store import Session, func, select
from registry.tables import LogLeafRow

BATCH: Final = 1_000


def append(session: Session, entry: LogEntry) -> int:
    """Append an entry in the caller's transaction (L1); returns its position. Kinds and fields: `registry.log.entry`.

    The decision and its leaf become visible together or not at all. Writers take turns, so positions have no gaps.
    """
    data = entry.to_bytes()
    position = log_size(session)
    frontier = Frontier(position, _hashes(session, subtrees((0, position))))
    completed = frontier.add(leaf_hash(data))
    session.add(
        LogLeafRow(
            position=position,
            subject=entry.subject,
            leaf=completed[0].hex(),
            entry=data,
            hashes=b"".join(completed),
        )
    )
    session.flush()  # what is appended next in this transaction stands on it
    return position


def log_size(session: Session) -> int:
    """The number of leaves."""
    newest = session.scalar(select(func.max(LogLeafRow.position)))
    return 0 if newest is None else newest + 1


def log_root(session: Session, size: int) -> bytes:
    """The root of the first `size` leaves. Raises BadProof where the log is shorter."""
    _check_size(session, size)
    return fold(_hashes(session, subtrees((0, size))))


def prove_inclusion(session: Session, position: int, size: int) -> list[bytes]:
    """The proof that a leaf is in the tree of the first `size` leaves. Raises BadProof where there is no such tree."""
    _check_size(session, size)
    return _span_hashes(session, inclusion_spans(position, size))


def prove_consistency(session: Session, first: int, second: int) -> list[bytes]:
    """The proof that the first tree is the beginning of the second. Raises BadProof where there are no such trees."""
    _check_size(session, second)
    return _span_hashes(session, consistency_spans(first, second))


def entries_about(session: Session, subject: str, limit: int) -> list[LogLeafRow]:
    """The leaves about one subject, the first ones first."""
    wanted = select(LogLeafRow).where(LogLeafRow.subject == subject).order_by(LogLeafRow.position)
    return list(session.scalars(wanted.limit(limit)))


def leaf_position(session: Session, leaf: str) -> int | None:
    """Where the leaf with a hash (hex) stands; None where there is none."""
    return session.scalar(select(func.min(LogLeafRow.position)).where(LogLeafRow.leaf == leaf))


def leaf_rows(session: Session, start: int, count: int) -> list[LogLeafRow]:
    """A page of leaves, from a position on."""
    wanted = select(LogLeafRow).where(LogLeafRow.position >= start, LogLeafRow.position < start + count)
    return list(session.scalars(wanted.order_by(LogLeafRow.position)))


def rehash(session: Session, roots: dict[int, bytes]) -> list[str]:
    """Hash every entry again (L8); what is wrong, in words.

    `roots` are those that were signed, by size. Compared are entries, stored hashes, positions and roots.
    """
    problems: list[str] = []
    frontier = Frontier()
    for row in _all_leaves(session):
        if row.position != frontier.size:
            return [*problems, f"leaf {frontier.size} is missing"]
        problems += _problems_of(row)
        completed = frontier.add(leaf_hash(row.entry))
        if row.hashes != b"".join(completed) or row.leaf != completed[0].hex():
            problems.append(f"leaf {row.position}: its stored hashes are not those of the entries")
        if roots.get(frontier.size, frontier.root()) != frontier.root():
            problems.append(f"the checkpoint of {frontier.size} leaves has another root than the entries")
    beyond = [size for size in roots if size > frontier.size]
    return problems + [f"there are {frontier.size} leaves; a checkpoint has {size}" for size in sorted(beyond)]


def _problems_of(row: LogLeafRow) -> list[str]:
    try:
        subject = LogEntry.from_bytes(row.entry).subject
    except BadData as error:
        return [f"leaf {row.position}: {error.message}"]
    return [] if subject == row.subject else [f"leaf {row.position}: it is stored for another subject"]


def _all_leaves(session: Session) -> Iterator[LogLeafRow]:
    start = 0
    while rows := leaf_rows(session, start, BATCH):
        yield from rows
        start = rows[-1].position + 1
        session.expunge_all()


def _check_size(session: Session, size: int) -> None:
    newest = log_size(session)
    if size > newest:
        raise BadProof(f"the log has {newest} leaves, not {size}", "GET /v1/log/checkpoint")


def _span_hashes(session: Session, spans: Sequence[Span]) -> list[bytes]:
    """The hashes of spans, read in one go."""
    parts = [subtrees(span) for span in spans]
    hashes = iter(_hashes(session, [one for part in parts for one in part]))
    return [fold([next(hashes) for _ in part]) for part in parts]


def _hashes(session: Session, wanted: Iterable[Subtree]) -> list[bytes]:
    """The hashes of complete subtrees: each stands with the last of its leaves, at the place of its level."""
    last = [(((index + 1) << level) - 1, level) for level, index in wanted]
    rows = select(LogLeafRow.position, LogLeafRow.hashes).where(LogLeafRow.position.in_({where for where, _ in last}))
    stored = {row.position: row.hashes for row in session.execute(rows)}
    found = [stored.get(where, b"")[level * HASH_BYTES : (level + 1) * HASH_BYTES] for where, level in last]
    if not all(len(one) == HASH_BYTES for one in found):
        raise LocalFailure("the log of this node is damaged: hashes are missing", "node log verify")
    return found
