"""Does the parent show one log to everybody, and one that only grows? The rounds, and comparing by hand.

Nothing is fetched because a stranger said so: checkpoints come from the parent, from the nodes that the operator named
(`log_peers`), and from whoever shows one that the parent or a child of this node has signed. What follows from two
checkpoints is `registry.log.checkpoint.compare`'s rule, what is kept of them `sync.seen_logs`'.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from node.context import Node, parent_of
from node.logs import tried_again
from node.own_log import newest_checkpoint
from registry.errors import BadData, BanyanError, LocalFailure
from registry.keys import PublicKey
from registry.log.checkpoint import STANDINGS, Standing, open_checkpoint, peek_checkpoint
from registry.log.leaves import prove_consistency
from registry.log.merkle import BadProof, Proof
from registry.store import select
from registry.tables import PeerRow
from sync.peer_log import fetch_checkpoint, fetch_consistency, show_checkpoint
from sync.seen_logs import Prove, Seen, held, keep_split, see, settle, standing_of, witness
from sync.transport import Peer

log = logging.getLogger(__name__)

Whose = Literal["own", "parent", "child"]


class NotFollowed(BadData):
    """The checkpoint is of no log that this node knows."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two checkpoints of one log say of it; `ours` is None where none was held."""

    standing: Standing
    ours: str | None
    theirs: str


def log_round(node: Node, now: datetime) -> None:
    """The daemon's duty: a checkpoint of our own log where one is due, and a look at the parent's."""
    with tried_again("the checkpoint of our own log"):
        newest_checkpoint(node, now)
    with tried_again("watching the parent's log"):
        watch_parent_log(node, now)


def watch_parent_log(node: Node, now: datetime) -> Standing | None:
    """See the parent's checkpoint, exchange it with `log_peers`, compare all that was seen (L10, L11).

    A node that cannot be reached is tried again in the next round. None where there is no parent.
    """
    parent = _parent(node)
    if parent is None:
        return None
    key, peer = parent
    with tried_again("the parent's log"):
        see_parent_log(node, key, peer, now)
    alone = settle(node.store, key, _proved_by(peer), now)  # so that others are shown the newest
    for url in node.settings.log_peers:
        with tried_again(f"comparing the parent's log with {url}"):
            _exchange(node, key, url, now)
    return max(alone, settle(node.store, key, _proved_by(peer), now), key=STANDINGS.index)


def check_parent_log(node: Node, now: datetime) -> Comparison:
    """The same for one look by a person: what cannot be reached is an error. Raises LocalFailure without a parent."""
    parent = parent_of(node)
    key, peer = PublicKey.from_hex(parent.public_key), node.peer(parent.url)
    before = held_note(node, key)
    theirs = see_parent_log(node, key, peer, now)
    return Comparison(settle(node.store, key, _proved_by(peer), now), before, theirs)


def see_parent_log(node: Node, key: PublicKey, peer: Peer, now: datetime) -> str:
    """Fetch the parent's newest checkpoint and note it; the first that is seen is held. Returns the note."""
    checkpoint, note = fetch_checkpoint(peer, key)
    with node.store.transaction() as session:
        see(session, Seen(key, checkpoint, note, peer.url), now, may_be_first=True)
    return note


def take_shown(node: Node, note: str, source: str, now: datetime) -> str | None:
    """What another node saw of the log of our parent or of a child (L11); the note that was held before.

    Of the parent's it is compared in the next round; of a child's, this node is the place where two children of that
    child meet. Raises NotFollowed for any other log, BadData where it is no checkpoint.
    """
    seen, whose = _verified(node, note, source)
    if whose == "own":
        raise NotFollowed("this node is whose log it is", "show it to others")
    with node.store.transaction() as session:
        if whose == "child":
            return witness(session, seen, now)
        see(session, seen, now, may_be_first=False)
        mine = held(session, seen.key.id)
    return mine.note if mine is not None else None


def compare_note(node: Node, note: str, source: str, now: datetime) -> Comparison:
    """Compare a note that somebody handed over with what is held of that log; one of our own, with our log.

    A split is kept. Raises NotFollowed where it is of no log that this node knows, BadData where it is no checkpoint.
    """
    seen, whose = _verified(node, note, source)
    parent = _parent(node)
    ours = newest_checkpoint(node, now) if whose == "own" else held_note(node, seen.key)
    if ours is None:
        return Comparison("cannot tell", None, note)
    prove: Prove = _unproved
    if whose == "own":
        prove = _proved_here(node)
    elif whose == "parent" and parent is not None:
        prove = _proved_by(parent[1])
    standing = standing_of(peek_checkpoint(ours), seen.checkpoint, prove)
    if standing == "split":
        with node.store.transaction() as session:
            keep_split(session, seen, ours, "this node", now)
    return Comparison(standing, ours, seen.note)


def compare_with(node: Node, url: str, now: datetime) -> Comparison:
    """Show another node what is held of the parent's log, and compare with what it holds.

    Raises LocalFailure where one of the two has seen no checkpoint of it.
    """
    key = PublicKey.from_hex(parent_of(node).public_key)
    note = held_note(node, key)
    if note is None:
        raise LocalFailure("no checkpoint of the parent's log was seen yet", "node log verify --peer parent")
    theirs = show_checkpoint(node.peer(url), note)
    if theirs is None:
        raise LocalFailure(f"{url} had seen no checkpoint of that log yet", "repeat it later")
    return compare_note(node, theirs, url, now)


def held_note(node: Node, key: PublicKey) -> str | None:
    """The checkpoint of a key's log that others are compared with."""
    with node.store.read() as session:
        row = held(session, key.id)
    return row.note if row is not None else None


def _parent(node: Node) -> tuple[PublicKey, Peer] | None:
    with node.store.read() as session:
        row = session.scalars(select(PeerRow).where(PeerRow.role == "parent")).first()
    return (PublicKey.from_hex(row.public_key), node.peer(row.url)) if row is not None else None


def _exchange(node: Node, key: PublicKey, url: str, now: datetime) -> None:
    note = held_note(node, key)
    theirs = show_checkpoint(node.peer(url), note) if note is not None else None
    if theirs is not None:
        checkpoint, kept = open_checkpoint(theirs, key)
        with node.store.transaction() as session:
            see(session, Seen(key, checkpoint, kept, url), now, may_be_first=False)


def _proved_by(peer: Peer) -> Prove:
    """The node whose log it is answers, or does not."""

    def prove(first: int, second: int) -> Proof | None:
        try:
            return fetch_consistency(peer, first, second)
        except BanyanError as error:
            log.warning("%s does not prove that its log only grew: %s (%s)", peer.url, error.message, error.hint)
            return None

    return prove


def _proved_here(node: Node) -> Prove:
    def prove(first: int, second: int) -> Proof:
        try:
            with node.store.read() as session:
                return prove_consistency(session, first, second)
        except BadProof:
            return ()  # our log never was so long

    return prove


def _unproved(first: int, second: int) -> None:  # noqa: ARG001  nobody can be asked
    return None


def _verified(node: Node, note: str, source: str) -> tuple[Seen, Whose]:
    """A note with the key that signed it, and whose that is."""
    peek_checkpoint(note)
    with node.store.read() as session:
        peers = [(PublicKey.from_hex(row.public_key), row.role) for row in session.scalars(select(PeerRow))]
    known: list[tuple[PublicKey, Whose]] = [(node.key.public, "own"), *peers]
    for key, whose in known:
        try:
            checkpoint, kept = open_checkpoint(note, key)
        except BadData:
            continue
        return Seen(key, checkpoint, kept, source), whose
    raise NotFollowed("the checkpoint is not of this node, its parent or a child of it", "ask a node that knows it")
