"""The parent of a simulation: a home of its own with one release, and every child enrolled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from registry.blobs import BlobStore
from registry.cards import CardFacts, render_card
from registry.documents import BaseManifest, Enrolment, File, Release, seal_document
from registry.home import Home
from registry.keys import PrivateKey
from registry.paths import NodePath, Ref
from registry.store import Store, file_url
from registry.tables import EnrolmentRow
from simulations.flower.settings import PLACE, Settings
from sync.chain import serve, signed_link
from sync.compose import Composer
from sync.enrolled import Identity
from sync.parent import PromotionPlan
from sync.promote import Promoter

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)


def make_parent(settings: Settings, folder: Path) -> Promoter:
    """A parent with one release without an adapter, and all children enrolled."""
    home = Home(folder)
    home.create()
    blobs, store = BlobStore(home.blobs, home.partial), Store.open(file_url(home.database))
    own = Identity(settings.key("parent"), (NodePath.parse(PLACE),))
    blobs.put_bytes(own.key.public.raw)
    base = Path(settings.base)
    named = sorted(file for file in base.iterdir() if file.is_file())
    files = tuple(_stored(blobs, file.name, file.read_bytes()) for file in named)
    manifest = BaseManifest(name="simulated", family="llama", files=files, licence="Apache-2.0")
    blobs.put_bytes(manifest.to_bytes())
    facts = CardFacts(
        ref=Ref(NodePath.parse(PLACE), 1), title=PLACE, languages=("en",), licence="Apache-2.0",
        base_model=manifest.name, relation="adapter", library="peft",
    )  # fmt: skip
    first = Release(
        path=PLACE, version=1, base=manifest.digest, base_name=manifest.name, adapter=None, above=None, previous=None,
        anchors=None, card=_stored(blobs, "README.md", render_card(facts).encode()), evaluations=(), contributions=(),
        recompression_error=None, created=NOW, expires=NOW + timedelta(days=365),
    )  # fmt: skip
    with store.transaction() as session:
        serve(session, signed_link(first, own.key), NOW)
        session.add_all(_enrolled(settings, own.key, number) for number in range(settings.clients))
    _, known = settings.shared()
    return Promoter(
        composer=Composer(store, blobs, lambda digest: base, "fp32"),
        own=own,
        runs=home.runs,
        refused=home.refused,
        plan=PromotionPlan(epochs=0, seed=settings.seed),
        known_rows=lambda place: known if str(place) == PLACE else [],
        now=lambda: NOW,
        keep_rows=lambda place, rows: None,
    )


def _stored(blobs: BlobStore, name: str, data: bytes) -> File:
    return File(name=name, size=len(data), sha256=blobs.put_bytes(data))


def _enrolled(settings: Settings, parent: PrivateKey, number: int) -> EnrolmentRow:
    key, path = settings.key(str(number)).public, settings.path(number)
    enrolment = Enrolment(
        path=path, key=key.hex, issuer=parent.public.id, issuer_path=PLACE, created=NOW,
        expires=NOW + timedelta(days=365),
    )  # fmt: skip
    return EnrolmentRow(
        key_id=key.id, path=path, public_key=key.hex, state="active", request=b"",
        envelope=seal_document(enrolment, parent), changed=NOW,
    )  # fmt: skip
