"""Take in a model that others made: its files into the blob store, a signed release at a path of this node.

The folder is examined by `model_folder`; from the Hub, only files of its allow-list are fetched, at one commit. What
the model is worth at the path is left to `evaluate`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from node.bases import base_folder
from node.context import Node
from node.model_folder import ModelFolder, inspect
from registry.blobs import BlobStore
from registry.cards import CardFacts, render_card, spdx_licence
from registry.documents import BaseManifest, File, Release
from registry.errors import BadData, LocalFailure
from registry.paths import NodePath, Ref
from registry.stored import stored_card
from registry.tables import HeadRow
from sync.chain import Link, find_release, next_version, serve, signed_link, stored_chain

OnProgress = Callable[[int, int], None]
UNKNOWN_LICENCE = "LicenseRef-unknown"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model came from: a folder on this machine, and the Hub repository at a commit where it was one."""

    folder: Path
    name: str
    hub_id: str | None = None
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """The outcome: the release that serves the model, and what was taken. `new` is false when it was served already."""

    release: Release
    digest: str
    new: bool
    folder: ModelFolder


def import_model(
    node: Node,
    source: Source,
    path: NodePath,
    now: datetime,
    *,
    licence: str | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> Imported:
    """Import a model and make it the head of a path. Importing what is served there already changes nothing.

    Raises BadData when the folder, the path or the licence cannot be taken, LocalFailure when the disk is too small.
    """
    if node.paths and not any(path.is_within(place) for place in node.paths):
        named = ",".join(map(str, node.paths))
        raise BadData(f"this node is responsible for {named}, not for {path}", f"node config set paths {named},{path}")
    folder = inspect(source.folder)
    stated = spdx_licence(licence) if licence else folder.card.licence if folder.card else None
    _check_space(node, folder.size_bytes)
    files = _store_files(node.blobs, folder, on_progress)
    manifest = BaseManifest(name=source.name, family=folder.family, files=files, licence=stated or UNKNOWN_LICENCE)
    node.blobs.put_bytes(manifest.to_bytes())
    base_folder(node.home, node.blobs, manifest.digest)
    served = _served(node, path)
    if served is not None and served.release.base == manifest.digest and not _has_adapters(node, served):
        return Imported(served.release, served.digest, False, folder)
    facts = partial(_card_facts, source, folder, manifest)
    link = _release(node, manifest, path, facts, now)
    return Imported(link.release, link.digest, True, folder)


def _check_space(node: Node, needed: int) -> None:
    free = shutil.disk_usage(node.home.root).free
    if needed > free:
        raise LocalFailure(
            f"the model has {needed:,} bytes, {free:,} are free in {node.home.root}",
            "free some space, or move the node: --home FOLDER",
        )


def _store_files(blobs: BlobStore, folder: ModelFolder, on_progress: OnProgress) -> tuple[File, ...]:
    files: list[File] = []
    done, total = 0, folder.size_bytes
    for file in folder.files:
        digest = blobs.put_file(file)
        size = blobs.path(digest).stat().st_size
        files.append(File(name=file.name, size=size, sha256=digest))
        done += size
        on_progress(done, total)
    return tuple(files)


def _served(node: Node, path: NodePath) -> Link | None:
    """The release at the head of a path, if there is one."""
    with node.store.read() as session:
        if session.get(HeadRow, str(path)) is None:
            return None
    return stored_chain(node.store, node.blobs, find_release(node.store, Ref(path)))[-1]


def _has_adapters(node: Node, link: Link) -> bool:
    return any(one.release.adapter is not None for one in stored_chain(node.store, node.blobs, link.digest))


def _release(
    node: Node, manifest: BaseManifest, path: NodePath, facts: Callable[[Ref], CardFacts], now: datetime
) -> Link:
    """Sign the release and make it the head, in one transaction; the sum of the path starts anew here."""
    with node.store.transaction() as session:
        version, previous = next_version(session, path, node.key.public.id)
        card = render_card(facts(Ref(path, version)))
        release = Release(
            path=str(path),
            version=version,
            base=manifest.digest,
            base_name=manifest.name,
            adapter=None,
            above=None,
            previous=previous,
            anchors=None,
            card=stored_card(node.blobs, card),
            evaluations=(),
            contributions=(),
            recompression_error=None,
            created=now,
            expires=now + timedelta(days=node.settings.release_valid_days),
        )
        link = signed_link(release, node.key)
        serve(session, link, now)
    return link


def _card_facts(source: Source, folder: ModelFolder, manifest: BaseManifest, ref: Ref) -> CardFacts:
    """What the card of an imported model says: where it is from; its own card's figures are not repeated as ours."""
    known = folder.card
    languages = known.languages if known and known.languages else ref.path.parts[:1]
    origin = f"`{source.hub_id}` on the Hugging Face Hub, commit `{source.commit}`" if source.hub_id else "a folder"
    derived = known.base_models[0] if known and known.base_models and not source.hub_id else None
    return CardFacts(
        ref=ref,
        title=manifest.name,
        languages=languages,
        licence=manifest.licence,
        base_model=source.hub_id or derived,
        relation=None,
        library="transformers",
        tags=(folder.family,),
        summary=f"Imported from {origin}: {folder.architecture}, {folder.parameters:,} parameters.",
        limits="Not evaluated at this place yet: `node evaluate`.",
    )
