"""What this node has: the tree of its heads, and everything that is known of one release."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from node.bases import read_manifest
from node.context import Node
from node.former_keys import own_keys
from registry.cards import MAX_CARD_BYTES
from registry.documents import Release
from registry.paths import ROOT_NAME, NodePath, Ref
from registry.store import select
from registry.tables import EvidenceRow, HeadRow, ReleaseRow
from sync.chain import Link, find_release, release_files, stored_chain, stored_link


@dataclass(frozen=True, slots=True)
class Place:
    """One path of the tree with the release that is served there and the versions that are kept."""

    path: str
    version: int
    digest: str
    base_name: str
    base: str
    adapter_rank: int | None
    adapter_bytes: int
    above: str | None
    own: bool
    expired: bool
    versions: tuple[int, ...]


def list_tree(node: Node, under: NodePath, now: datetime) -> list[Place]:
    """The places at and below a path at which this node serves a release, in the order of the tree."""
    with node.store.read() as session:
        rows = list(session.execute(select(HeadRow, ReleaseRow).join(ReleaseRow)))
        versions = [(path, version) for path, version in session.execute(select(ReleaseRow.path, ReleaseRow.version))]
        places = []
        for _, row in rows:
            release = stored_link(session, node.blobs, row.digest).release
            kept = sorted({version for path, version in versions if path == row.path})
            places.append(_place(row, release, tuple(kept), now))
    wanted = [place for place in places if NodePath.parse(place.path).is_within(under)]
    return sorted(wanted, key=lambda place: NodePath.parse(place.path))


def _place(row: ReleaseRow, release: Release, versions: tuple[int, ...], now: datetime) -> Place:
    adapter, above = release.adapter, release.above
    return Place(
        path=row.path,
        version=row.version,
        digest=row.digest,
        base_name=release.base_name,
        base=release.base,
        adapter_rank=adapter.shape.rank if adapter else None,
        adapter_bytes=adapter.file.size if adapter else 0,
        above=f"{above.path}@v{above.version}" if above else None,
        own=row.own,
        expired=release.expires <= now,
        versions=versions,
    )


def describe(node: Node, ref: Ref, now: datetime) -> dict[str, Any]:
    """Everything about one release, as plain values: signer, what it is the sum of, files, figures, card, expiry."""
    digest = find_release(node.store, ref)
    chain = stored_chain(node.store, node.blobs, digest)
    link = chain[-1]
    release = link.release
    with node.store.read() as session:
        head = session.get(HeadRow, release.path)
        measured = list(session.scalars(select(EvidenceRow).where(EvidenceRow.release == digest)))
    manifest = read_manifest(node.blobs, release.base)
    return {
        **release.model_dump(mode="json"),
        "digest": digest,
        "signer": {"id": link.signer.id, "fingerprint": link.signer.fingerprint, "own": _is_own(node, link)},
        "served": head is not None and head.release == digest,
        "expired": release.expires <= now,
        "sum_of": [_part(one) for one in chain],
        "base_manifest": manifest.model_dump(mode="json"),
        "missing": [
            file.name for one in chain for file in release_files(one.release) if not node.blobs.has(file.sha256)
        ]
        + [file.name for file in manifest.files if not node.blobs.has(file.sha256)],
        "measured_here": [
            {"dataset": row.benchmark, "rows": row.rows, "metrics": json.loads(row.metrics), "created": row.created}
            for row in measured
        ],
        "card_text": node.blobs.read(release.card.sha256, MAX_CARD_BYTES).decode("utf-8", "replace"),
    }


def topics_of(path: str) -> tuple[str, str, str]:
    """Language (without region), domain and subdomain of a path, "" where it has none."""
    if path == ROOT_NAME:
        return "", "", ""
    language, domain, subdomain, *_ = [*path.split("/"), "", "", ""]
    return language.partition("-")[0].lower(), domain, subdomain


def _is_own(node: Node, link: Link) -> bool:
    return link.signer in own_keys(node)


def _part(link: Link) -> dict[str, Any]:
    adapter = link.release.adapter
    return {
        "release": f"{link.release.path}@v{link.release.version}",
        "digest": link.digest,
        "signer": link.signer.id,
        "adapter": adapter.file.sha256 if adapter else None,
        "rank": adapter.shape.rank if adapter else None,
    }
