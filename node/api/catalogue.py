"""Which blobs anybody may have: those that a shared release of this node names, and nothing else.

No transfer set, no file of a run and no update is among them.
"""

from __future__ import annotations

import logging
import threading

from node.api.shared import shared
from node.context import Node
from registry.documents import BaseManifest
from registry.envelope import MAX_ENVELOPE_BYTES
from registry.errors import BanyanError
from registry.store import select
from registry.tables import ReleaseRow
from sync.chain import Link, release_files, stored_link

log = logging.getLogger(__name__)


class Catalogue:
    """The digests of public blobs, learned from the releases as they come (K7, H5): releases are never taken back."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._releases: set[str] = set()
        self._blobs: set[str] = set()

    def has(self, digest: str) -> bool:
        """Whether a blob is public."""
        with self._lock:
            if digest not in self._blobs:
                self._learn()
            return digest in self._blobs

    def _learn(self) -> None:
        with self._node.store.read() as session:
            rows = shared(self._node, session, session.scalars(select(ReleaseRow)))
            for digest in {row.digest for row in rows} - self._releases:
                try:
                    self._blobs |= self._named_by(stored_link(session, self._node.blobs, digest))
                except BanyanError as error:  # one that was damaged here does not keep the others from being served
                    log.warning("release %s cannot be served: %s", digest, error.message)
                else:
                    self._releases.add(digest)

    def _named_by(self, link: Link) -> set[str]:
        base = BaseManifest.from_bytes(self._node.blobs.read(link.release.base, MAX_ENVELOPE_BYTES))
        named = {file.sha256 for file in (*base.files, *release_files(link.release))}
        return named | {link.release.base, link.signer.id}
