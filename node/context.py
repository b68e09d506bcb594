"""The parts of an open node, put together in one place: settings, database, blobs, key, and whom it trusts.

Everything that a command or a request handler needs is reached from here; nothing imports it back.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event

from node.settings import Settings
from registry.blobs import BlobStore
from registry.errors import LocalFailure
from registry.home import Home
from registry.keys import PrivateKey
from registry.paths import NodePath
from registry.store import Store, file_url, select
from registry.tables import PeerRow
from sync.address import read_networks
from sync.meter import Meter
from sync.transport import HttpTransport, Limits, Peer

DATABASE_NEEDS_BYTES = 1 << 20  # for SQLite's own files beside the database


@dataclass(frozen=True)
class Node:
    """One open node."""

    home: Home
    settings: Settings
    store: Store
    blobs: BlobStore
    key: PrivateKey
    passphrase: str | None = field(default=None, repr=False)  # of the key files
    meter: Meter | None = None  # of the peers that are talked to, where the daemon does
    arrived: Event = field(default_factory=Event, repr=False, compare=False)  # set where an update is whole

    @property
    def paths(self) -> tuple[NodePath, ...]:
        """The places that this node is responsible for."""
        return tuple(NodePath.parse(text) for text in self.settings.paths)

    def peer(self, url: str) -> Peer:
        """A node at an address that the owner of this one named, so it may be in a private network."""
        limits = Limits(
            answer_s=self.settings.request_timeout_s,
            file_s=self.settings.transfer_timeout_s,
            max_file_bytes=self.settings.max_blob_bytes,
            clock_skew_s=self.settings.clock_skew_s,
        )
        return Peer(self.transport(limits.answer_s), url, limits)

    def transport(self, stall_s: float) -> HttpTransport:
        """The way to addresses that the owner of this node named; `stall_s`: longest wait for the next byte."""
        networks = read_networks(self.settings.peer_networks)
        return HttpTransport(allow_private=True, networks=networks, stall_s=stall_s, meter=self.meter)

    def close(self) -> None:
        """Close the database."""
        self.store.close()


def open_node(settings: Settings, passphrase: str | None = None) -> Node:
    """Open the node of a home folder (K7); close it afterwards.

    Raises LocalFailure when there is no node in the home (hint: `node init`) or its parts cannot be opened, BadData
    when the key file or the passphrase is wrong.
    """
    home = settings.place
    key = PrivateKey.load(home.key_file, passphrase)
    home.create()
    blobs = BlobStore(home.blobs, home.partial)
    if not blobs.has(key.public.id):
        blobs.put_bytes(key.public.raw)  # a key id is its digest: who verifies our releases fetches it as a blob
    return Node(home, settings, _open_store(settings, home), blobs, key, passphrase)


def _open_store(settings: Settings, home: Home) -> Store:
    """The database of a node; SQLite calls a full disk an input/output error, which would send people astray."""
    try:
        return Store.open(settings.database_url or file_url(home.database))
    except LocalFailure as error:
        free = shutil.disk_usage(home.root).free
        if settings.database_url or free > DATABASE_NEEDS_BYTES:
            raise
        raise LocalFailure(
            f"the disk is full, {free:,} bytes are free in {home.root}: {error.message}",
            "free some disk space, then repeat",
        ) from error


@contextmanager
def opened_node(settings: Settings, passphrase: str | None = None) -> Iterator[Node]:
    """`open_node` for a `with` statement."""
    node = open_node(settings, passphrase)
    try:
        yield node
    finally:
        node.close()


def parent_of(node: Node) -> PeerRow:
    """The pinned parent. Raises LocalFailure when this node has none."""
    with node.store.read() as session:
        row = session.scalars(select(PeerRow).where(PeerRow.role == "parent")).first()
    if row is None:
        raise LocalFailure("this node has no parent yet", "node enrol URL --path PATH")
    return row
