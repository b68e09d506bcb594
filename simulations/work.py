"""What an honest node does by itself: offers of updates, verdicts on those that came, releases of those accepted.

What would be trained, merged and measured is left out: every adapter is new and its behaviour is taken to be right. All
else is `sync`'s: numbers, states, arrows, verdicts, leaves of the log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from registry.documents import (
    Adapter,
    AnyOffering,
    CheckResult,
    Distillation,
    Evaluation,
    File,
    Release,
    ReleasePin,
    Update,
    seal_document,
)
from registry.store import Session, select
from registry.tables import HeadRow, ReleaseRow, SequenceRow, UpdateRow
from simulations.member import Member, Parent
from simulations.rounds import READY
from simulations.weights import BASE_NAME, SHAPE, adapter_bytes, base_manifest, check_adapter, described
from sync.chain import Link, next_version, serve, signed_link
from sync.inbox import accepted, advance, mark, undecided
from sync.lifecycle import UNDECIDED
from sync.verdict import failure

RELEASE_LIFE: Final = timedelta(days=365)
CARD: Final = b"# made in a simulation\n"
RUN: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class Made:
    """What there is to offer: an adapter, the release that it was made on, what is claimed of it, rows that travel."""

    release: ReleasePin
    adapter: Adapter
    claims: tuple[Evaluation, ...] = ()
    transfer: File | None = None
    transfer_rows: int = 0


def offer(member: Member, parent: Parent, life: timedelta, made: Made | None = None) -> str | None:
    """Sign and store an update (U8); its digest.

    Without something `made` it is a new adapter on what the parent serves; None where nothing of that was pulled yet.
    """
    now, key_id, path = member.watch.now(), member.key.public.id, str(member.place)
    with member.store.transaction() as session:
        head = session.get(ReleaseRow, made.release.digest) if made else _head(session, str(parent.place))
        if head is None:
            return None
        used = session.get(SequenceRow, (key_id, path))
        if used is None:
            used = SequenceRow(issuer=key_id, path=path, highest=0)
            session.add(used)
        used.highest += 1
        what = made or Made(pin_of(head), new_adapter(member, f"{member.host} update {used.highest}"))
        update = Update(
            path=path,
            issuer=key_id,
            audience=parent.key.id,
            base=head.base,
            release=what.release,
            sequence=used.highest,
            created=now,
            expires=now + life,
            adapter=what.adapter,
            claims=what.claims,
            run=RUN,
            transfer=what.transfer,
            transfer_rows=what.transfer_rows,
        )
        envelope = seal_document(update, member.key)
        digest = hashlib.sha256(envelope).hexdigest()
        session.add(
            UpdateRow(
                digest=digest,
                direction="out",
                issuer=key_id,
                path=path,
                sequence=used.highest,
                state=READY,
                envelope=envelope,
                received=now,
                changed=now,
            )
        )
    return digest


def work(member: Member) -> list[Link]:
    """Move every update that came as far as it goes; the releases that are made of the accepted ones."""
    for row in undecided(member.store):
        before, state = "", row.state
        while state in UNDECIDED and state != before:
            before, now = state, member.watch.now()
            state = advance(member.store, member.blobs, row.digest, _checks, member.own, now)
    rows = accepted(member.store)
    return [release(member, [row.digest for row in rows])] if rows else []


def _checks(update: AnyOffering, adapter: Path, transfer: Path | None) -> Sequence[CheckResult]:  # noqa: ARG001
    if isinstance(update, Distillation):
        return [failure("files.answers", "no member learns of answers")]
    return check_adapter(adapter, update.adapter)


def release(member: Member, updates: Sequence[str] = (), life: timedelta = RELEASE_LIFE) -> Link:
    """Make a release at our place on what is served above it, with these updates, and serve it."""
    now = member.watch.now()
    with member.store.transaction() as session:
        link = signed_link(_next_release(member, session, updates, life), member.key)
        for digest in updates:
            mark(session, digest, "aggregated", now)
            mark(session, digest, "gated", now)
            mark(session, digest, "released", now, release=link.digest)
        serve(session, link, now)
    member.is_published = False
    return link


def _next_release(member: Member, session: Session, updates: Sequence[str], life: timedelta) -> Release:
    now, path = member.watch.now(), str(member.place)
    version, previous = next_version(session, member.place, member.key.public.id)
    above = next((row for place in reversed(member.place.chain()[:-1]) if (row := _head(session, str(place)))), None)
    member.blobs.put_bytes(CARD)
    return Release(
        path=path,
        version=version,
        base=base_manifest().digest,
        base_name=BASE_NAME,
        adapter=new_adapter(member, f"{member.host} release {version} at {now}"),
        above=pin_of(above) if above is not None else None,
        previous=previous,
        anchors=None,
        card=described("README.md", CARD),
        evaluations=(),
        contributions=tuple(updates),
        recompression_error=None,
        created=now,
        expires=now + life,
    )


def new_adapter(member: Member, label: str) -> Adapter:
    """Another adapter for every label, stored."""
    data = adapter_bytes(label)
    member.blobs.put_bytes(data)
    return Adapter(file=described("adapter_model.safetensors", data), shape=SHAPE)


def pin_of(row: ReleaseRow) -> ReleasePin:
    """The exact reference to a stored release."""
    return ReleasePin(path=row.path, version=row.version, digest=row.digest)


def _head(session: Session, path: str) -> ReleaseRow | None:
    return session.scalars(
        select(ReleaseRow).join(HeadRow, HeadRow.release == ReleaseRow.digest).where(HeadRow.path == path)
    ).first()
