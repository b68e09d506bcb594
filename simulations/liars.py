"""Nodes that lie to their children: real nodes whose answers are changed on the way out, or that lead two lives.

Each lie is a function of the liar, of the request and of the honest answer. What liars send to their parents is
`forgeries`'.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from registry.documents import Release, seal_document
from registry.envelope import peek_payload
from registry.store import select
from registry.tables import HeadRow, ReleaseRow
from simulations.member import Member
from simulations.network import Answer, Request
from simulations.server import not_here, serve
from simulations.work import release
from sync.chain import Link, release_row, signed_link
from sync.transport import Refused

Lie = Callable[["Liar", Request], Answer]

SHORT_LIFE: Final = timedelta(hours=1)


@dataclass(eq=False)
class Liar:
    """A node that lies. `twin` is its other life, shown to every second child; `old` a copy of what it published."""

    member: Member
    lie: str
    chances: random.Random
    twin: Member | None = None
    old: Path | None = None
    shown: list[tuple[str, str]] = field(default_factory=list)  # to whom which checkpoint

    def answer(self, request: Request) -> Answer:
        """What is said instead of the truth."""
        return LIES[self.lie](self, request)

    def keep_old(self, folder: Path) -> None:
        """Keep what is published now, to show it again later."""
        shutil.copytree(self.member.home.repository, folder)
        self.old = folder

    def stir(self) -> None:
        """Make a release that children must not take, or two of one version."""
        if self.twin is not None:
            release(self.member)
            release(self.twin)
        elif self.lie == "expired":
            release(self.member, life=SHORT_LIFE)
        elif self.lie in CHANGES:
            CHANGES[self.lie](self.member)
        else:
            release(self.member)


def _truth(liar: Liar, request: Request) -> Answer:
    return serve(liar.member, request)


def _garbage(liar: Liar, request: Request) -> Answer:
    answer = serve(liar.member, request)
    return Answer([liar.chances.randbytes(200)]) if liar.chances.random() < 0.5 else answer


def _flipped(liar: Liar, request: Request) -> Answer:
    """One bit is another one."""
    answer = serve(liar.member, request)
    data = bytearray(b"".join(answer.body))
    if data and liar.chances.random() < 0.3:
        data[liar.chances.randrange(len(data))] ^= 1
    return Answer([bytes(data)], answer.offset)


def _endless(liar: Liar, request: Request) -> Answer:
    if request.method == "GET" and liar.chances.random() < 0.3:
        return Answer(_zeros())
    return serve(liar.member, request)


def _zeros() -> Iterator[bytes]:
    piece = bytes(1 << 20)
    while True:
        yield piece


def _refusing(liar: Liar, request: Request) -> Answer:  # noqa: ARG001  the signature of Lie
    raise Refused("no", "", 403, "forbidden")


def _rolled_back(liar: Liar, request: Request) -> Answer:
    """What was published long ago, half of the time."""
    name = request.path.removeprefix("/v1/tuf/metadata/")
    if liar.old is None or name == request.path or liar.chances.random() < 0.5:
        return serve(liar.member, request)
    try:
        return Answer([(liar.old / name).read_bytes()])
    except FileNotFoundError:
        raise not_here() from None


def _two_lives(liar: Liar, request: Request) -> Answer:
    """One life for the children with even places, another one for the others."""
    hosts = sorted(liar.member.children)
    is_second = request.asker in hosts and hosts.index(request.asker) % 2 == 1
    return _life(liar, request, is_second=is_second)


def _fickle(liar: Liar, request: Request) -> Answer:
    """Two lives, and which of them a child sees is chance."""
    return _life(liar, request, is_second=liar.chances.random() < 0.5)


def _life(liar: Liar, request: Request, *, is_second: bool) -> Answer:
    answer = serve(liar.twin if liar.twin is not None and is_second else liar.member, request)
    if request.path == "/v1/log/checkpoint":
        body = b"".join(answer.body)
        liar.shown.append((request.asker, body.decode()))
        return Answer([body])
    return answer


LIES: Final[dict[str, Lie]] = {
    "garbage": _garbage,
    "flipped": _flipped,
    "endless": _endless,
    "refusing": _refusing,
    "rolled back": _rolled_back,
    "two lives": _two_lives,
    "fickle": _fickle,
    "expired": _truth,
    "forged": _truth,
    "rewritten": _truth,
    "taken back": _truth,
}
TWO_LIVES: Final = ("two lives", "fickle")


def _serve_forged(member: Member) -> None:
    """List a release whose signature does not hold."""
    link = release(member)
    other = link.release.model_copy(update={"version": link.release.version + 1})
    envelope = forged_signature(seal_document(other, member.key))
    made = Link(other, hashlib.sha256(envelope).hexdigest(), member.key.public, envelope)
    with member.store.transaction() as session:
        session.add(release_row(made, own=True))
        session.flush()
        session.merge(HeadRow(path=other.path, release=made.digest, changed=member.watch.now()))
    member.is_published = False


def _rewrite(member: Member) -> None:
    """Make a release; the next time, another one in its place, with the same version."""
    before = member.heads()[str(member.place)]
    if before.version == 1:
        release(member)
        return
    other = Release.model_validate_json(peek_payload(before.envelope)).model_copy(
        update={"created": member.watch.now()}
    )
    made = signed_link(other, member.key)
    with member.store.transaction() as session:
        session.delete(session.get_one(HeadRow, other.path))
        session.flush()
        session.delete(session.get_one(ReleaseRow, before.digest))
        session.flush()
        session.add(release_row(made, own=True))
        session.flush()
        session.add(HeadRow(path=other.path, release=made.digest, changed=member.watch.now()))
    member.is_published = False


def _take_back(member: Member) -> None:
    """Make a release; the next time, list the one before it as the newest."""
    head = member.heads()[str(member.place)]
    if head.version == 1:
        release(member)
        return
    with member.store.transaction() as session:
        wanted = select(ReleaseRow.digest).where(ReleaseRow.path == head.path, ReleaseRow.version == head.version - 1)
        session.get_one(HeadRow, head.path).release = session.scalars(wanted).one()
    member.is_published = False


CHANGES: Final[dict[str, Callable[[Member], None]]] = {
    "forged": _serve_forged,
    "rewritten": _rewrite,
    "taken back": _take_back,
}


def forged_signature(envelope: bytes) -> bytes:
    """The same envelope with a signature that nobody made."""
    fields = json.loads(envelope)
    signature = fields["signatures"][0]["sig"]
    fields["signatures"][0]["sig"] = ("B" if signature[0] == "A" else "A") + signature[1:]
    return json.dumps(fields, separators=(",", ":")).encode()
