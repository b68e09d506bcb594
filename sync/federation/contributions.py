"""Signing what a child brings to a round, and verifying it at the parent before anything is computed from it.

Flower proves a timestamp of its own; this binds the arrays to their author, the run, the round and the audience, so
that nothing is replayed, exchanged or made up on the way, whoever carries it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from registry.documents import open_document, seal_document
from registry.envelope import peek_signer
from registry.errors import BadData
from registry.keys import PrivateKey, PublicKey
from registry.paths import NodePath
from registry.rounds import Contribution, RoundTask
from sync.enrolled import Speaker


@dataclass(frozen=True, slots=True)
class Asked:
    """A task as it was sent: what was signed, and the envelope whose digest names it."""

    task: RoundTask
    envelope: bytes

    @property
    def digest(self) -> str:
        """The digest of the envelope."""
        return hashlib.sha256(self.envelope).hexdigest()


@dataclass(frozen=True, slots=True)
class Brought:
    """A contribution whose signature and words hold; the arrays are still to be looked at."""

    contribution: Contribution
    digest: str  # of its envelope


def open_task(envelope: bytes, parent: PublicKey, now: datetime) -> Asked:
    """The task that a parent signed (J1). Raises BadData for one that is not its own, or is over."""
    task, _ = open_document(envelope, RoundTask, [parent])
    if not now < task.expires or task.round > task.rounds:
        raise BadData(f"the task of round {task.round} of {task.rounds} expired at {task.expires:%H:%M:%S} UTC")
    return Asked(task, envelope)


def sign(asked: Asked, arrays: str, path: str, key: PrivateKey, now: datetime) -> bytes:
    """The envelope of a contribution with arrays of a digest (J2)."""
    return seal_document(
        Contribution(
            issuer=key.public.id,
            created=now,
            expires=asked.task.expires,
            path=path,
            audience=asked.task.issuer,
            task=asked.digest,
            run=asked.task.run,
            round=asked.task.round,
            arrays=arrays,
        ),
        key,
    )


def verify(envelope: bytes, asked: Asked, arrays: str, speaker: Callable[[str], Speaker]) -> Brought:
    """A contribution to a task, with arrays of this digest (J2).

    `speaker` says what the enrolments of a key id allow. Raises BadData where anything is not as it was asked for:
    unsigned, of a key that is not enrolled, of another run, round or audience, or for other arrays.
    """
    may = speaker(peek_signer(envelope))
    found, opened = open_document(envelope, Contribution, [may.key])
    task = asked.task
    if found.audience != task.issuer:
        raise BadData(f"it is meant for the key {found.audience}, not for this node")
    if (found.run, found.round) != (task.run, task.round):
        raise BadData(
            f"it was made for round {found.round} of run {found.run[:16]}, not for round {task.round} of this"
        )
    if found.task != asked.digest:
        raise BadData("it answers another task than the one that was sent")
    if not may.may_speak_for(NodePath.parse(found.path)):
        raise BadData(f"its key may not speak for {found.path}")
    if found.arrays != arrays:
        raise BadData("its arrays are not those that were signed")
    return Brought(found, opened.digest)
