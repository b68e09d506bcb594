"""Questions to a peer about its log: checkpoint, consistency, entries with their proofs; and telling it what was seen.

The bodies of the interface stand here, for both sides. What follows from the answers is left to the callers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, TypeVar
from urllib.parse import quote

from pydantic import Field, StringConstraints, ValidationError

from registry.errors import BadData
from registry.fields import Count, Digest, Part
from registry.keys import PublicKey
from registry.log.checkpoint import MAX_NOTE_BYTES, NOTE_MEDIA_TYPE, Checkpoint, open_checkpoint
from registry.log.entry import LogEntry
from registry.log.merkle import check_inclusion, leaf_hash
from sync.transport import Peer, Refused

ANSWER_BYTES: Final = 64 << 10
ENTRIES_BYTES: Final = 8 << 20
MAX_PROOF: Final = 54  # of a log of 2**53 - 1 leaves
MAX_LEAVES: Final = 1_000
MAX_ENTRIES: Final = 100
MAX_ENTRY_CHARS: Final = 64 << 10

Hashes = Annotated[tuple[Digest, ...], Field(max_length=MAX_PROOF)]
Note = Annotated[str, StringConstraints(max_length=MAX_NOTE_BYTES)]


class Consistency(Part):
    """The proof that the tree of `first` leaves is the beginning of that of `second`."""

    first: Count
    second: Count
    proof: Hashes


class Inclusion(Part):
    """The proof that a leaf stands at `position` in the tree of `size` leaves."""

    position: Count
    size: Count
    proof: Hashes


class Entry(Part):
    """An entry as its bytes are, where it stands, and the proof for the size that was asked for."""

    position: Count
    entry: Annotated[str, StringConstraints(max_length=MAX_ENTRY_CHARS)]
    proof: Hashes


class Entries(Part):
    """The entries about one subject within the tree of `size` leaves."""

    size: Count
    entries: Annotated[tuple[Entry, ...], Field(max_length=MAX_ENTRIES)]


class Leaves(Part):
    """The hashes of the leaves from `start` on."""

    start: Count
    leaves: Annotated[tuple[Digest, ...], Field(max_length=MAX_LEAVES)]


class Held(Part):
    """The checkpoint of the same log that a node saw before; None where it saw none."""

    checkpoint: Note | None


AnyAnswer = TypeVar("AnyAnswer", bound=Part)


def fetch_checkpoint(peer: Peer, key: PublicKey) -> tuple[Checkpoint, str]:
    """The newest checkpoint that a peer shows, verified, and its note. Raises Refused (404) of an empty log."""
    answer = peer.get("/v1/log/checkpoint", MAX_NOTE_BYTES)
    return open_checkpoint(answer.decode("utf-8", "replace"), key)


def fetch_consistency(peer: Peer, first: int, second: int) -> list[bytes]:
    """The peer's proof for two sizes; not verified here. No hashes where it says that it has no such proof."""
    try:
        answer = peer.get(f"/v1/log/consistency?first={first}&second={second}", ANSWER_BYTES)
    except Refused as refusal:
        if refusal.code != "bad_data":
            raise
        return []
    return unhexed(_parse(Consistency, answer, peer).proof)


def fetch_entries(peer: Peer, subject: str, checkpoint: Checkpoint) -> list[tuple[Entry, LogEntry]]:
    """What a peer's log says about a subject, each entry proven to be in the tree of the checkpoint (L12)."""
    answer = peer.get(f"/v1/log/entries/{quote(subject, safe='')}?size={checkpoint.size}", ENTRIES_BYTES)
    found = []
    for one in _parse(Entries, answer, peer).entries:
        entry = LogEntry.from_bytes(one.entry.encode())
        if entry.subject != subject:
            raise BadData(f"{peer.url} answered with an entry about something else", "tell the peer's operator")
        leaf = leaf_hash(one.entry.encode())
        check_inclusion(leaf, one.position, checkpoint.size, unhexed(one.proof), checkpoint.root)
        found.append((one, entry))
    return found


def show_checkpoint(peer: Peer, note: str) -> str | None:
    """Tell a peer which checkpoint of a common log was seen here (L11); the one that it saw before, unverified."""
    answer = peer.transport.post(
        f"{peer.url}/v1/log/seen",
        note.encode(),
        NOTE_MEDIA_TYPE,
        max_bytes=2 * MAX_NOTE_BYTES,
        timeout_s=peer.limits.answer_s,
    )
    return _parse(Held, answer, peer).checkpoint


def unhexed(proof: Sequence[str]) -> list[bytes]:
    """Hashes as bytes."""
    return [bytes.fromhex(one) for one in proof]


def _parse(model: type[AnyAnswer], answer: bytes, peer: Peer) -> AnyAnswer:
    try:
        return model.model_validate_json(answer)
    except ValidationError as error:
        raise BadData(f"{peer.url} answered a question about its log with nonsense", "is it a node?") from error
