"""Releases of a node that were not made of updates, and the files of adapters: signed documents and blobs, no rules."""

from __future__ import annotations

from registry.cards import MAX_CARD_BYTES, render_next_card
from registry.documents import Adapter, Release, ReleasePin
from registry.paths import Ref
from registry.stored import stored_card, stored_file
from simulations.member import Member
from simulations.work import RELEASE_LIFE
from sync.delta import WEIGHTS_FILE, Delta, write_adapter


def put_adapter(member: Member, delta: Delta) -> Adapter:
    """Store the file of an adapter and describe it."""
    file = member.home.partial / WEIGHTS_FILE
    shape = write_adapter(delta, file)
    return Adapter(file=stored_file(member.blobs, file), shape=shape)


def next_release(
    member: Member, old: Release, above: ReleasePin, previous: str, adapter: Adapter | None, way: str
) -> Release:
    """The release that follows a rebase; the figures and the anchors stay those of the old one."""
    now, version = member.watch.now(), old.version + 1
    card = render_next_card(
        member.blobs.read(old.card.sha256, MAX_CARD_BYTES).decode(),
        Ref(member.place, version),
        old.base_name,
        evaluations=old.evaluations,
        summary=f"Version {version} of {old.path}, after {above.path}@v{above.version}: {way}.",
    )
    return old.model_copy(
        update={
            "version": version,
            "above": above,
            "previous": previous,
            "adapter": adapter,
            "card": stored_card(member.blobs, card),
            "contributions": (),
            "created": now,
            "expires": now + RELEASE_LIFE,
        }
    )
