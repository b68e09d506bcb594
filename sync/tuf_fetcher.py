"""Metadata of a peer's TUF repository over our own transport: its deadline, no redirects, no compression (F8)."""

from __future__ import annotations

from collections.abc import Iterator

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface

from registry.trust.client import MAX_METADATA_BYTES
from sync.transport import Peer, Refused


class PeerFetcher(FetcherInterface):
    """What python-tuf's client asks for files. It stops at the length that it expects; here is the bound of all."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            yield self._peer.transport.get(url, max_bytes=MAX_METADATA_BYTES, timeout_s=self._peer.limits.answer_s)
        except Refused as refusal:
            raise DownloadHTTPError(refusal.message, refusal.status) from refusal
