"""The starter tree: the bundled base as signed releases of this node, so that the first run needs no network.

A node without a parent becomes the root of a tree of its own and serves the starter paths; a node with a parent takes
the base's files only, so that it need not fetch them again.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from node.bases import base_folder
from node.context import Node
from node.validation import store_validation
from registry.cards import CardFacts, parse_card, render_card
from registry.documents import BaseManifest, Release, ReleasePin
from registry.paths import NodePath, Ref
from registry.rows import read_rows
from registry.stored import stored_card, stored_file
from registry.tables import HeadRow
from sync.chain import serve, signed_link

BUNDLED: Final = Path(__file__).parent / "bundled"
MODEL_NAME: Final = "banyan/seedling"
MODEL_LICENCE: Final = "Apache-2.0"
STARTER_PATHS: Final = (
    "master",
    "en",
    "en/finance",
    "en/finance/cards",
    "en/finance/transfers",
    "en/travel",
    "en/health",
    "de",
    "de/home",
    "de/law",
    "fr",
)
MAX_ROWS_BYTES: Final = 16 << 20


def install_starter_tree(node: Node) -> list[Ref]:
    """Install what is bundled and not here yet; returns the releases that were made. Safe to repeat or to kill."""
    manifest = _store_base(node)
    base_folder(node.home, node.blobs, manifest.digest)
    if node.settings.parent_url or not any(NodePath.parse("master").is_within(path) for path in node.paths):
        return []
    store_validation(node.home, NodePath.parse("master"), read_rows(BUNDLED / "validation.jsonl", MAX_ROWS_BYTES))
    anchors = stored_file(node.blobs, BUNDLED / "anchors.jsonl")
    languages = parse_card((BUNDLED / "model" / "README.md").read_text(encoding="utf-8")).languages
    now = datetime.now(UTC)
    pins: dict[NodePath, ReleasePin] = {}
    with node.store.transaction() as session:
        if session.get(HeadRow, "master") is not None:
            return []
        for path in map(NodePath.parse, STARTER_PATHS):
            page = _card(path, languages)
            release = Release(
                path=str(path),
                version=1,
                base=manifest.digest,
                base_name=MODEL_NAME,
                adapter=None,
                above=pins[path.parent] if path.parent is not None else None,
                previous=None,
                anchors=anchors,
                card=stored_card(node.blobs, page),
                evaluations=(),
                contributions=(),
                recompression_error=None,
                created=now,
                expires=now + timedelta(days=node.settings.release_valid_days),
            )
            link = signed_link(release, node.key)
            serve(session, link, now)
            pins[path] = link.pin
    return [Ref(path, 1) for path in pins]


def _card(path: NodePath, languages: tuple[str, ...]) -> str:
    facts = CardFacts(
        ref=Ref(path, 1),
        title=str(path),
        languages=path.parts[:1] or languages,
        licence=MODEL_LICENCE,
        base_model=MODEL_NAME,
        relation=None,
        library="transformers",
        summary=f"The bundled base, as the start of {path}.",
        limits="Evaluated as the base; see its own card.",
    )
    return render_card(facts)


def _store_base(node: Node) -> BaseManifest:
    folder = BUNDLED / "model"
    files = tuple(stored_file(node.blobs, file) for file in sorted(folder.iterdir()) if file.is_file())
    manifest = BaseManifest(name=MODEL_NAME, family="llama", files=files, licence=MODEL_LICENCE)
    node.blobs.put_bytes(manifest.to_bytes())
    return manifest
