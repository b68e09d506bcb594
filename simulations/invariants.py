"""What must hold in every run, judged from outside: by what was really signed, and by signatures checked here again.

Nothing of the rules under test is asked: a check that is left out of them has to be seen here. The databases are read
in SQL, not by the classes that the nodes write them with.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from registry.documents import Release, Update
from registry.envelope import peek_payload
from registry.keys import PublicKey
from registry.log.checkpoint import peek_checkpoint
from registry.log.leaves import log_root, log_size, rehash
from registry.paths import NodePath
from registry.store import select
from registry.tables import LogCheckpointRow
from simulations.liars import Liar
from simulations.member import SKEW_S, Member
from simulations.rounds import OPEN

SKEW: Final = timedelta(seconds=SKEW_S)
HEADS: Final = (
    "SELECT r.path, r.version, r.digest, r.signer, r.expires, r.envelope "
    "FROM releases AS r JOIN heads AS h ON h.release = r.digest"
)
UPDATES: Final = "SELECT digest, sequence, state, received, envelope, verdict FROM updates WHERE direction = "
REFUSABLE: Final = ("envelope.sequence", "envelope.staleness", "envelope.clock", "envelope.expiry", "files.received")


class Head(NamedTuple):
    """A release that is served; times as SQLite keeps them."""

    path: str
    version: int
    digest: str
    signer: str
    expires: str
    envelope: bytes


class Sent(NamedTuple):
    """An update that came in or went out."""

    digest: str
    sequence: int
    state: str
    received: str
    envelope: bytes
    verdict: bytes | None


@dataclass
class World:
    """Who there is and what is true: `signed` are the digests of all that honest nodes have signed."""

    members: dict[str, Member]
    liars: frozenset[str] = frozenset()
    signed: set[str] = field(default_factory=set)
    keys: dict[str, PublicKey] = field(default_factory=dict)  # of all, by id

    def honest(self) -> Iterator[Member]:
        """The nodes that keep to the rules."""
        return (member for host, member in self.members.items() if host not in self.liars)

    def owner(self, path: str) -> Member | None:
        """The node that is responsible for a place."""
        return next((member for member in self.members.values() if str(member.place) == path), None)

    def hears_no_lie(self, member: Member, path: str) -> bool:
        """Whether only honest nodes stand between a node and the one that is responsible for a path, that one too."""
        here: Member | None = member
        while here is not None and here.host not in self.liars:
            if str(here.place) == path:
                return True
            here = self.members[here.parent.host] if here.parent is not None else None
        return False


class Watcher:
    """The invariants of a run; it remembers what it saw last."""

    def __init__(self, world: World, heads: Mapping[tuple[str, str], tuple[int, str]]) -> None:
        self._world = world
        self._heads = dict(heads)  # of (host, path)
        self._sequences: dict[tuple[str, str, str], int] = {}
        self._taken: dict[tuple[str, str, str], int] = {}
        self._seen: set[tuple[str, str]] = set()
        self._log_sizes: dict[str, int] = {}
        self._proven: set[bytes] = set()

    def look(self, member: Member) -> list[str]:
        """What is wrong at a node now that was not seen before: sequences, heads, updates, the length of its log."""
        ((leaves,),) = member.store.rows("SELECT count(*) FROM log_leaves")
        sequences = member.store.rows("SELECT issuer, path, highest FROM sequences")
        found = [*self._of_heads(member, served(member)), *self._of_sequences(member, sequences)]
        found += self._of_updates(member, _updates(member, "in"))
        if leaves < self._log_sizes.get(member.host, 0):
            found.append("the log has become shorter")
        self._log_sizes[member.host] = leaves
        return [f"{member.host}: {problem}" for problem in found]

    def _of_heads(self, member: Member, rows: Iterable[Head]) -> Iterator[str]:
        for row in rows:
            name, before = f"{row.path}@v{row.version}", self._heads.get((member.host, row.path))
            if before == (row.version, row.digest):
                continue
            self._heads[member.host, row.path] = row.version, row.digest
            if before is not None and row.version < before[0]:
                yield f"sequence: the head of {row.path} fell from v{before[0]} to v{row.version}"
            if before is not None and row.version == before[0]:
                yield f"equivocation: the head {name} gave way to another of the same version"
            yield from self._of_release(member, row, name)

    def _of_release(self, member: Member, row: Head, name: str) -> Iterator[str]:
        release, now = Release.model_validate_json(peek_payload(row.envelope)), member.watch.now()
        if not self._is_signed(row.envelope, row.signer):
            yield f"unsigned: the head {name} is not signed by key {row.signer[:16]}"
        if self._world.hears_no_lie(member, row.path) and row.digest not in self._world.signed:
            yield f"unsigned: {name} was never made by the node that is responsible for it"
        if release.expires <= now:
            yield f"expired: the head {name} had expired when it was taken"
        if release.created > now + SKEW:
            yield f"expired: the head {name} is from the future"

    def _of_sequences(self, member: Member, rows: Iterable[tuple[str, str, int]]) -> Iterator[str]:
        for issuer, path, highest in rows:
            key = member.host, issuer, path
            if highest < self._sequences.get(key, 0):
                yield f"sequence: of {issuer[:16]} at {path} it fell to {highest}"
            self._sequences[key] = highest

    def _of_updates(self, member: Member, rows: Iterable[Sent]) -> Iterator[str]:
        """What was taken: not the updates that were rejected when they came."""
        for row in rows:
            if (member.host, row.digest) in self._seen:
                continue
            self._seen.add((member.host, row.digest))
            if row.state != "rejected":
                yield from self._of_update(member, row, Update.model_validate_json(peek_payload(row.envelope)))

    def _of_update(self, member: Member, row: Sent, update: Update) -> Iterator[str]:
        name, key = f"update {update.sequence} of {update.path}", (member.host, update.issuer, update.path)
        if not self._is_signed(row.envelope, update.issuer):
            yield f"unsigned: {name} is not signed by its issuer"
        senders = {key.id: host for host, key in member.children.items()}
        sender = senders.get(update.issuer)
        if sender is None:
            yield f"unsigned: {name} is from a key that nobody enrolled"
        elif sender not in self._world.liars and row.digest not in self._world.signed:
            yield f"unsigned: {name} was never made by {sender}"
        elif not NodePath.parse(update.path).is_within(self._world.members[sender].place):
            yield f"unsigned: {name} is for a place of somebody else"
        if update.audience != member.key.public.id:
            yield f"unsigned: {name} was for another node"
        received = _time(row.received)
        if update.expires <= received:
            yield f"expired: {name} had expired when it was taken"
        if update.created > received + SKEW:
            yield f"expired: {name} is from the future"
        if update.sequence <= self._taken.get(key, 0):
            yield f"sequence: {name} was taken after number {self._taken[key]}"
        self._taken[key] = max(update.sequence, self._taken.get(key, 0))

    def _is_signed(self, envelope: bytes, key_id: str) -> bool:
        if envelope in self._proven:
            return True
        key, fields = self._world.keys.get(key_id), json.loads(envelope)
        payload, kind = base64.b64decode(fields["payload"]), fields["payloadType"]
        signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
        holds = key is not None and key.verifies(base64.b64decode(fields["signatures"][0]["sig"]), signed)
        if holds:
            self._proven.add(envelope)
        return holds


def apart(world: World) -> list[tuple[str, str]]:
    """Honest nodes that do not serve what an honest parent serves, or do not know what came of an update; and what."""
    found: list[tuple[str, str]] = []
    heads = {member.host: {head.path: head for head in served(member)} for member in world.honest()}
    for member in world.honest():
        if member.parent is None or member.parent.host in world.liars:
            continue
        for path, row in heads[member.parent.host].items():
            mine = heads[member.host].get(path)
            near = member.place.is_within(NodePath.parse(path)) and path != str(member.place)
            if near and _time(row.expires) > member.watch.now() and (mine is None or mine.digest != row.digest):
                found.append((member.host, f"serves {_name(mine)}, {member.parent.host} {_name(row)}"))
        found += [(member.host, problem) for problem in _open_updates(member)]
    return found


def served(member: Member) -> list[Head]:
    """What a node serves."""
    return [Head(*row) for row in member.store.rows(HEADS)]


def damaged(member: Member) -> list[str]:
    """What is wrong with the store, the blobs or the log of a node."""
    with member.store.read() as session:
        notes = session.scalars(select(LogCheckpointRow.note))
        roots = {note.size: note.root for note in map(peek_checkpoint, notes)}
        found = rehash(session, roots)
    return [
        f"{member.host}: {one}" for one in (*found, *member.store.check_integrity(), *member.blobs.check_integrity())
    ]


def _open_updates(member: Member) -> Iterator[str]:
    for row in _updates(member, "out"):
        if row.state in OPEN:
            yield f"its update {row.sequence} is {row.state}"
        elif row.state == "rejected" and row.verdict is not None:
            checks = json.loads(peek_payload(row.verdict))["checks"]
            if not any(check["name"] in REFUSABLE for check in checks if not check["passed"]):
                yield f"its update {row.sequence} was rejected: {checks}"


def accused(world: World) -> list[str]:
    """Split views that an honest node is said to have shown: there must be none."""
    innocent = {member.key.public.id: member.host for member in world.honest()}
    return [f"{host} accuses {innocent[key]}" for host, key in splits(world) if key in innocent]


def unnoticed(world: World, liars: Iterable[Liar]) -> list[str]:
    """Nodes that showed one log to an honest child, another one to another, and were found by none of them.

    Children know each other: each is a `log_peer` of the others.
    """
    split = {key for _, key in splits(world)}
    honest = {member.host for member in world.honest()}
    found = []
    for liar in liars:
        lives = [_life(liar, note) for asker, note in liar.shown if asker in honest]
        if {0, 1} <= set(lives) and liar.member.key.public.id not in split:
            found.append(f"{liar.member.host} showed two logs and nobody found it")
    return found


def splits(world: World) -> list[tuple[str, str]]:
    """Who has found whom, by key id."""
    found = []
    for member in world.honest():
        found += [(member.host, key) for (key,) in member.store.rows("SELECT key_id FROM log_splits")]
    return found


def _life(liar: Liar, note: str) -> int | None:
    """Which of the two lives of a liar a checkpoint is of; None where it is of both: of the time before they parted."""
    if liar.twin is None:
        return None
    shown = peek_checkpoint(note)
    fits = [n for n, one in enumerate((liar.member, liar.twin)) if _root_of(one, shown.size) == shown.root]
    return fits[0] if len(fits) == 1 else None


def _root_of(member: Member, size: int) -> bytes | None:
    with member.store.read() as session:
        return log_root(session, size) if size <= log_size(session) else None


def _updates(member: Member, direction: str) -> list[Sent]:
    return [Sent(*row) for row in member.store.rows(f"{UPDATES} '{direction}'")]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _name(row: Head | None) -> str:
    return f"{row.path}@v{row.version} {row.digest[:8]}" if row is not None else "nothing"
