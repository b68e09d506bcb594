"""The files of updates that came in: taken piece by piece, bounded by what the envelope declares, resumable."""

from __future__ import annotations

import logging

from registry.blobs import BlobStore
from registry.documents import AnyOffering, File
from registry.errors import BadData
from registry.store import Store
from registry.tables import UpdateRow
from sync.lifecycle import load_update

log = logging.getLogger(__name__)


def file_offset(store: Store, blobs: BlobStore, digest: str, sha256: str) -> int:
    """How many bytes of a file are here: where to go on sending.

    Raises UnknownUpdate, and BadData for a file that is not the update's or an update that was rejected.
    """
    row, file = _expected(store, digest, sha256)
    return file.size if _is_settled(row, blobs, file) else blobs.partial_size(sha256)


def append_file(store: Store, blobs: BlobStore, digest: str, sha256: str, *, offset: int, data: bytes) -> int:
    """Write bytes of a file at `offset` (T2, T4); returns how many are now here.

    Bytes may be repeated but not left out. Raises UnknownUpdate; BadData for a file that is not the update's, a
    rejected update, a gap, more bytes than the update declares, or when the last byte is here and the digest is wrong
    (then the file is to be sent from its start); LocalFailure if the bytes cannot be written.
    """
    row, file = _expected(store, digest, sha256)
    if _is_settled(row, blobs, file):
        return file.size
    here = blobs.append_partial(sha256, offset, data, file.size)
    if here == file.size:
        blobs.finish_partial(sha256, file.size)
    return here


def files_of(update: AnyOffering) -> list[File]:
    """The files that travel with an update, the adapter first."""
    return list(update.files)


def is_here(blobs: BlobStore, file: File) -> bool:
    """Whether a file is whole. One whose last byte came just before a kill is finished now."""
    if not blobs.has(file.sha256) and blobs.partial_size(file.sha256) == file.size:
        try:
            blobs.finish_partial(file.sha256, file.size)
        except BadData as error:
            log.info("%s", error.message)
    return blobs.has(file.sha256)


def _expected(store: Store, digest: str, sha256: str) -> tuple[UpdateRow, File]:
    row, update = load_update(store, digest)
    if row.state == "rejected":
        raise BadData(f"update {digest} was rejected: its files are not taken", f"node updates show {digest}")
    for file in files_of(update):
        if file.sha256 == sha256:
            return row, file
    raise BadData(f"update {digest} has no file {sha256!a:.80}")


def _is_settled(row: UpdateRow, blobs: BlobStore, file: File) -> bool:
    return row.state != "received" or is_here(blobs, file)
