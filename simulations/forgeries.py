"""What liars send to their parents: updates forged, replayed, too old, too new, for somebody else, or nonsense."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from registry.documents import Update, open_document, seal_document
from registry.envelope import MEDIA_TYPE
from registry.keys import PrivateKey
from registry.store import select
from registry.tables import UpdateRow
from simulations.genesis import key_of
from simulations.liars import forged_signature
from simulations.member import Member, Parent
from simulations.network import MemoryTransport, url_of
from simulations.work import offer
from sync.push import ANSWER_BYTES, submit

LIFE: Final = timedelta(days=30)
LONG_AGO: Final = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A member that lies to its parent, an update that it could have sent honestly, and chance."""

    member: Member
    parent: Parent
    envelope: bytes
    update: Update
    chances: random.Random

    def changed(self, key: PrivateKey | None = None, **changes: Any) -> bytes:
        """The update with other words, signed all the same."""
        return seal_document(self.update.model_copy(update=changes), key or self.member.key)


Forgery = Callable[[Attempt], bytes]

FORGERIES: Final[dict[str, Forgery]] = {
    "forged signature": lambda attempt: forged_signature(attempt.envelope),
    "key of nobody": lambda attempt: attempt.changed(
        stranger(), issuer=stranger().public.id, sequence=attempt.update.sequence + 1
    ),
    "name of somebody": lambda attempt: attempt.changed(issuer=attempt.parent.key.id),
    "sibling's place": lambda attempt: attempt.changed(path=_beside(attempt), sequence=attempt.update.sequence + 1),
    "replay": lambda attempt: attempt.envelope,
    "number used twice": lambda attempt: attempt.changed(run="1" * 64),
    "number of before": lambda attempt: attempt.changed(sequence=1, run="2" * 64),
    "jump": lambda attempt: attempt.changed(sequence=attempt.update.sequence + 2_000_000),
    "expired": lambda attempt: attempt.changed(
        created=attempt.update.created - LONG_AGO,
        expires=attempt.update.created - LIFE,
        sequence=attempt.update.sequence + 1,
    ),
    "from the future": lambda attempt: attempt.changed(
        created=attempt.update.created + LIFE,
        expires=attempt.update.created + LONG_AGO,
        sequence=attempt.update.sequence + 1,
    ),
    "for another node": lambda attempt: attempt.changed(
        audience=stranger().public.id, sequence=attempt.update.sequence + 1
    ),
    "garbage": lambda attempt: attempt.chances.randbytes(300),
}


def stranger() -> PrivateKey:
    """The key of a node that nobody has enrolled."""
    return key_of("stranger")


def forge(member: Member, parent: Parent, kind: str, chances: random.Random) -> None:
    """Sign an update, send it as an honest node would, then the lie. Raises what the parent answers."""
    digest = offer(member, parent, LIFE)
    if digest is None:
        return
    with member.store.read() as session:
        envelope = session.scalars(select(UpdateRow.envelope).where(UpdateRow.digest == digest)).one()
    update, _ = open_document(envelope, Update, [member.key.public])
    lie = FORGERIES[kind](Attempt(member, parent, envelope, update, chances))
    if chances.random() < 0.5:  # else the lie comes first
        submit(member.peer(parent.host), envelope, [update.adapter.file], member.blobs)
    if lie == envelope or hashlib.sha256(lie).hexdigest() == digest:
        submit(member.peer(parent.host), envelope, [update.adapter.file], member.blobs)
    MemoryTransport(member.network, member.host).post(
        f"{url_of(parent.host)}/v1/updates", lie, MEDIA_TYPE, max_bytes=ANSWER_BYTES, timeout_s=0.0
    )


def _beside(attempt: Attempt) -> str:
    """The place of a sibling."""
    place = attempt.member.place
    return "/".join((*place.parts[:-1], "n1" if place.parts[-1] != "n1" else "n0"))
