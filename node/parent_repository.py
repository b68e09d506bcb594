"""The child's side of TUF: what the parent's repository lists, proven.

The metadata that was believed before lies in the home, in a folder of the parent. It begins with a root that the pinned
key vouches for: nodes that were enrolled before there were repositories take it at their next pull.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final

from node.context import Node, parent_of
from node.parent_key import take_new_key
from node.repository import release_of
from registry.documents import ReleasePin
from registry.keys import PublicKey
from registry.paths import NodePath, Ref
from registry.trust.client import Client, begin, in_our_words, release_keys
from registry.trust.files import locked
from sync.transport import Peer
from sync.tuf_fetcher import PeerFetcher

METADATA: Final = "/v1/tuf/metadata"


@dataclass(frozen=True)
class Listing:
    """The releases that the parent serves, as its repository says (F2). `url` is the parent's address."""

    url: str
    releases: tuple[ReleasePin, ...]

    @cached_property
    def heads(self) -> dict[NodePath, ReleasePin]:
        """The release that the parent serves at each path."""
        ordered = sorted(self.releases, key=lambda pin: pin.version)
        return {NodePath.parse(pin.path): pin for pin in ordered}

    @property
    def digests(self) -> frozenset[str]:
        """What the parent vouches for by listing it (F9)."""
        return frozenset(pin.digest for pin in self.releases)

    def find(self, ref: Ref) -> ReleasePin | None:
        """The release of a path and version, or the one that is served."""
        if ref.version is None:
            return self.heads.get(ref.path)
        return next((p for p in self.releases if (p.path, p.version) == (str(ref.path), ref.version)), None)


def take_first_root(node: Node) -> None:
    """Bind the parent's repository to its pinned key (F5), unless that was done. Raises as `parent_listing` does."""
    parent = parent_of(node)
    folder = node.home.trusted / parent.key_id
    with locked(folder), in_our_words(f"the releases of {parent.url}"):
        _begin(node.peer(parent.url), folder, PublicKey.from_hex(parent.public_key))


def parent_listing(node: Node, now: datetime) -> Listing:
    """What the parent lists now, believed only if it is signed, fresh and not older than what was seen before.

    A new key of the parent takes the place of the pinned one (F4). Raises BadData when something of it does not hold,
    LocalFailure when there is no parent or it does not answer; what was believed before stays.
    """
    parent = parent_of(node)
    peer = node.peer(parent.url)
    folder = node.home.trusted / parent.key_id
    with locked(folder):
        client = _follow(peer, folder, PublicKey.from_hex(parent.public_key), now)
        if parent.public_key not in (keys := [key.hex for key in release_keys(client.root)]):
            take_new_key(node, parent, PublicKey.from_hex(keys[0]), now)
    pins = (release_of(name, target.hashes.get("sha256", "")) for name, target in client.targets.items())
    return Listing(parent.url, tuple(pin for pin in pins if pin is not None))


def _follow(peer: Peer, folder: Path, pinned: PublicKey, now: datetime) -> Client:
    """A client after a refresh."""
    with in_our_words(f"the releases of {peer.url}"):
        _begin(peer, folder, pinned)
        client = Client(folder, f"{peer.url}{METADATA}", PeerFetcher(peer), now=now)
        client.refresh()
    return client


def _begin(peer: Peer, folder: Path, pinned: PublicKey) -> None:
    begin(folder, f"{peer.url}{METADATA}", PeerFetcher(peer), pinned)
