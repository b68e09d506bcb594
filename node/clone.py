"""Clone a model of the tree: fetch and verify its releases, then write it as a folder that PEFT loads.

The folder holds one adapter, the stacked sum of all adapters of the path, over the base, which lies in the home.
`lineage.json` says what it was made of. Exporting merged weights is left to `export`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from node.arrivals import fetch_checked
from node.bases import base_folder, read_manifest
from node.context import Node
from node.feedback import note_clone
from node.folders import new_folder
from node.lineage import unchanged_clone, write_lineage
from node.parent_repository import Listing, parent_listing
from node.trust import trusted_keys, vouched
from registry.cards import MAX_CARD_BYTES
from registry.documents import ReleasePin
from registry.errors import BadData, LocalFailure
from registry.paths import Ref
from registry.store import select
from registry.tables import HeadRow, PeerRow, ReleaseRow
from sync.chain import Link, find_release, stored_chain
from sync.checks.tensors import read_header
from sync.fetch import OnProgress, Progress, no_progress
from sync.pull import fetch_release, find_version, poll
from sync.transport import Peer

if TYPE_CHECKING:
    from sync.delta import Delta


@dataclass(frozen=True, slots=True)
class CloneResult:
    """What was cloned: where from (None: it was here), the folder, the base beside it, and the bytes that travelled."""

    ref: Ref
    release: str
    source: str | None
    folder: Path
    base_folder: Path
    files: tuple[str, ...]
    moved_bytes: int
    new: bool


def clone(
    node: Node,
    ref: Ref,
    out: Path | None,
    on_progress: OnProgress = no_progress,
    *,
    now: datetime,
    source: str | None = None,
) -> CloneResult:
    """Clone a release, the newest where `ref` names no version, into the folder `out`; returns where it lies.

    It comes from `source`, the address of a node; without one, from this node if the path is its own or the version
    is here, else from the parent. Cloning again what is there changes nothing. Raises BadData when a signature, a
    digest or the folder is not as it should be, LocalFailure when the release cannot be had; nothing is then seen of
    it, and the same call goes on where it ended.
    """
    moved = 0

    def count(progress: Progress) -> None:
        nonlocal moved
        moved = progress.moved
        on_progress(progress)

    url = source.rstrip("/") if source else _default_source(node, ref)
    digest = find_release(node.store, ref) if url is None else _fetch(node, url, ref, now, count)
    chain = stored_chain(node.store, node.blobs, digest)
    release = chain[-1].release
    exact = Ref(ref.path, release.version)
    folder = (out or Path(f"{ref.path.hub_id.partition('/')[2]}-v{release.version}")).absolute()
    base = base_folder(node.home, node.blobs, release.base)
    files = unchanged_clone(folder, digest)
    if files is None:
        new_files = _write(node, chain, folder, base)
        note_clone(node, str(ref.path), digest, now)
        return CloneResult(exact, digest, url, folder, base, new_files, moved, True)
    return CloneResult(exact, digest, url, folder, base, files, moved, False)


def _default_source(node: Node, ref: Ref) -> str | None:
    """The parent's address, or None where this node is to be asked itself."""
    with node.store.read() as session:
        parent = session.scalars(select(PeerRow).where(PeerRow.role == "parent")).first()
        head = session.get(HeadRow, str(ref.path))
        rows = session.scalars(
            select(ReleaseRow).where(ReleaseRow.path == str(ref.path), ReleaseRow.version == ref.version)
        ).all()
        served = session.get(ReleaseRow, head.release) if head is not None else None
    if parent is None or rows or (ref.version is None and served is not None and served.own):
        return None
    return parent.url


def _fetch(node: Node, url: str, ref: Ref, now: datetime, on_progress: OnProgress) -> str:
    """Fetch what `ref` means at a peer; its digest."""
    peer = node.peer(url)
    listing = parent_listing(node, now) if _is_parent(node, url) else None
    pin = _listed(listing, ref) if listing else _offered(node, peer, ref, now)
    proven = vouched(node, [pin]) if listing else frozenset[str]()
    if ref.version is None:
        if held := fetch_checked(node, peer, pin, now, proven, on_progress):
            raise BadData(f"{pin.path}@v{pin.version} was {held}", f"node updates show {pin.digest[:16]}")
        return pin.digest
    fetch_release(
        peer,
        pin,
        trusted=trusted_keys(node, now),
        store=node.store,
        blobs=node.blobs,
        now=now,
        vouched=proven,
        as_head=False,
        on_progress=on_progress,
    )
    return pin.digest


def _is_parent(node: Node, url: str) -> bool:
    with node.store.read() as session:
        parent = select(PeerRow).where(PeerRow.role == "parent", PeerRow.url == url)
        return session.scalars(parent).first() is not None


def _listed(listing: Listing, ref: Ref) -> ReleasePin:
    """The release that the parent's repository lists (F2)."""
    found = listing.find(ref)
    if found is not None:
        return found
    if ref.version is None:
        raise _not_served(listing.url, ref, [str(path) for path in listing.heads])
    raise LocalFailure(f"{listing.url} has no release {ref}", f"node clone {ref.path} takes its newest")


def _offered(node: Node, peer: Peer, ref: Ref, now: datetime) -> ReleasePin:
    """What another node says its head of a path is, or its release of the version, by a trusted key if there is one.

    That it is the newest is not known: only the parent's repository is followed.
    """
    if ref.version is None:
        heads = {head.path: head for head in poll(peer)}
        if str(ref.path) in heads:
            return heads[str(ref.path)]
        raise _not_served(peer.url, ref, list(heads))
    found = find_version(peer, ref)
    if not found:
        raise LocalFailure(f"{peer.url} has no release {ref}", f"node clone {ref.path} takes its newest")
    trusted = {key.id for key in trusted_keys(node, now)(ref.path)}
    best = next((pin for pin in found if pin.signer in trusted), found[0])
    return ReleasePin(path=best.path, version=best.version, digest=best.digest)


def _not_served(url: str, ref: Ref, heads: list[str]) -> LocalFailure:
    served = ", ".join(sorted(heads)[:20]) or "nothing"
    return LocalFailure(f"{url} does not serve {ref.path}; it serves {served}", "node clone one of these")


def _write(node: Node, chain: list[Link], folder: Path, base: Path) -> tuple[str, ...]:
    """Write the adapter, the card and the lineage; the names of the files."""
    from sync.delta import write_peft_folder

    release = chain[-1].release
    delta = _sum(node, chain, base)
    with new_folder(folder, "--out") as partial:
        write_peft_folder(delta, partial, release.base_name)
        (partial / "README.md").write_bytes(node.blobs.read(release.card.sha256, MAX_CARD_BYTES))
        write_lineage(partial, chain, read_manifest(node.blobs, release.base))
        return tuple(sorted(file.name for file in partial.iterdir()))


def _sum(node: Node, chain: list[Link], base: Path) -> Delta:
    """The sum of the adapters of a path; where there is none, one of rank 1 that changes nothing."""
    from sync.delta import read_adapter, stack, zero

    adapters = [link.release.adapter for link in chain if link.release.adapter is not None]
    if adapters:
        files = [node.blobs.open_verified(adapter.file.sha256) for adapter in adapters]
        return stack([read_adapter(file, one.shape) for file, one in zip(files, adapters, strict=True)])
    shapes: dict[str, tuple[int, int]] = {}
    for file in sorted(base.glob("*.safetensors")):
        for name, entry in read_header(file).tensors.items():
            if name.endswith(".q_proj.weight") and len(entry.shape) == 2:
                shapes[name.removesuffix(".weight")] = (entry.shape[0], entry.shape[1])
    if not shapes:
        ref = f"{chain[-1].release.path}@v{chain[-1].release.version}"
        raise BadData(f"{ref} is its base alone, without an adapter", f"node export {ref} --format merged")
    return zero(shapes)
