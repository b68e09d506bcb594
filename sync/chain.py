"""A release with the pinned releases above it, as they are stored: what a model of a path is the sum of.

Every envelope is verified again when it is read, with the key of its signer, which lies among the blobs: a key id is
the SHA-256 of the key, so a key is stored and fetched like any other file. Fetching a chain is left to `sync.pull`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from registry.blobs import BlobStore
from registry.documents import CheckResult, File, Release, ReleasePin, open_document, seal_document
from registry.errors import BadData, LocalFailure
from registry.keys import KEY_BYTES, KeyId, PrivateKey, PublicKey
from registry.log.entry import log_entry
from registry.log.leaves import append
from registry.paths import NodePath, Ref
from registry.store import Session, Store, func, select
from registry.tables import DecisionRow, HeadRow, ReleaseRow
from sync.checks.version import checker_version


@dataclass(frozen=True, slots=True)
class Link:
    """One verified release of a chain."""

    release: Release
    digest: str
    signer: PublicKey
    envelope: bytes

    @property
    def pin(self) -> ReleasePin:
        """The exact reference to this release."""
        return ReleasePin(path=self.release.path, version=self.release.version, digest=self.digest)


def stored_link(session: Session, blobs: BlobStore, digest: str) -> Link:
    """A release of this node by its digest (R13).

    Raises LocalFailure when it is not here, BadData when it was damaged.
    """
    row = session.get(ReleaseRow, digest)
    if row is None:
        raise LocalFailure(f"the release {digest} is not on this node", "node pull")
    key = PublicKey(blobs.read(row.signer, KEY_BYTES))
    release, opened = open_document(row.envelope, Release, [key])
    if opened.digest != digest:
        raise BadData(
            f"the stored release {row.path}@v{row.version} is damaged: its digest is another one", "node pull"
        )
    return Link(release, digest, key, row.envelope)


def stored_chain(store: Store, blobs: BlobStore, digest: str) -> list[Link]:
    """The releases that the model of a release is the sum of, the top of the tree first, the release itself last."""
    with store.read() as session:
        links = [stored_link(session, blobs, digest)]
        while (above := links[-1].release.above) is not None:
            links.append(stored_link(session, blobs, above.digest))
            check_pin(links[-1].release, above, links[-2].release)
    return links[::-1]


def check_pin(release: Release, pin: ReleasePin, below: Release | None = None) -> None:
    """Raise BadData unless a release is the one that was named, and fits the release below that names it (R4, R5)."""
    if (release.path, release.version) != (pin.path, pin.version):
        raise BadData(
            f"the release {pin.digest} says that it is {release.path}@v{release.version}, "
            f"but {pin.path}@v{pin.version} was asked for",
            "tell the operator of the peer",
        )
    if below is not None and release.base != below.base:
        raise BadData(
            f"{below.path}@v{below.version} and {release.path}@v{release.version} above it have different bases",
            "tell the operator of the peer",
        )


def find_release(store: Store, ref: Ref) -> str:
    """The digest of the version that `ref` names, else of the head at its path. LocalFailure when there is none.

    Where several keys signed one version, the head is meant if it is among them, else our own; else BadData.
    """
    with store.read() as session:
        head = session.get(HeadRow, str(ref.path))
        if ref.version is None:
            if head is None:
                raise LocalFailure(f"this node has no release of {ref.path}", f"node pull {ref.path}")
            return head.release
        wanted = select(ReleaseRow).where(ReleaseRow.path == str(ref.path), ReleaseRow.version == ref.version)
        rows = list(session.scalars(wanted))
    if not rows:
        raise LocalFailure(f"this node has no release {ref}", f"node pull {ref}")
    chosen = [row for row in rows if head is not None and row.digest == head.release] or [r for r in rows if r.own]
    if len(rows) > 1 and not chosen:
        raise BadData(f"{len(rows)} keys signed a release {ref}", "take the one that its path serves: leave @v out")
    return (chosen or rows)[0].digest


def release_files(release: Release) -> Iterator[File]:
    """The files of one release, without those of its base."""
    if release.adapter is not None:
        yield release.adapter.file
    if release.anchors is not None:
        yield release.anchors
    yield release.card


def next_version(session: Session, path: NodePath, signer: KeyId) -> tuple[int, str | None]:
    """The version that a new release of a path has, and the digest of the latest that its signer made before it."""
    highest = session.scalar(select(func.max(ReleaseRow.version)).where(ReleaseRow.path == str(path)))
    own = select(ReleaseRow).where(ReleaseRow.path == str(path), ReleaseRow.signer == signer)
    previous = session.scalars(own.order_by(ReleaseRow.version.desc())).first()
    return (highest or 0) + 1, previous.digest if previous else None


def signed_link(release: Release, key: PrivateKey) -> Link:
    """A release of this node, signed with its key."""
    envelope = seal_document(release, key)
    return Link(release, hashlib.sha256(envelope).hexdigest(), key.public, envelope)


def serve(session: Session, link: Link, now: datetime, gate: Iterable[CheckResult] = ()) -> None:
    """Store a release that this node has signed and make it the head of its path, in the caller's transaction.

    It becomes a decision, of which whoever listens for hints is told, and a leaf of the log (L1), with the results of
    the gate where it passed one.
    """
    session.add(release_row(link, own=True))
    session.flush()  # the head refers to it
    session.merge(HeadRow(path=link.release.path, release=link.digest, changed=now))
    body = json.dumps({"path": link.release.path, "version": link.release.version})
    session.add(DecisionRow(at=now, kind="release.served", subject=link.digest, body=body))
    append(session, log_entry("release.made", link.digest, now, checks=gate, checker=checker_version()))


def release_row(link: Link, own: bool) -> ReleaseRow:
    """The row that stores a verified release."""
    release = link.release
    return ReleaseRow(
        digest=link.digest,
        path=release.path,
        version=release.version,
        signer=link.signer.id,
        base=release.base,
        adapter=release.adapter.file.sha256 if release.adapter else None,
        above=release.above.digest if release.above else None,
        envelope=link.envelope,
        own=own,
        created=release.created,
        expires=release.expires,
    )
