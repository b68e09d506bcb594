"""One file from a peer, by its digest: from where an earlier try ended, within its declared size.

Which files are wanted, and what they are good for, is left to the callers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from registry.blobs import BlobStore
from registry.documents import File
from registry.errors import BadData, LocalFailure
from sync.transport import Broken, Peer

FRUITLESS_TRIES = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transfer is, over all its files, in bytes; `moved` came over the wire in this call."""

    file: str
    done: int
    total: int
    moved: int = 0


OnProgress = Callable[[Progress], None]


def no_progress(_: Progress) -> None:
    """Tell nobody."""


def blob_path(digest: str) -> str:
    """Where every node serves a blob."""
    return f"/v1/blobs/{digest}"


def fetch_small(peer: Peer, digest: str, max_bytes: int, blobs: BlobStore) -> bytes:
    """A small blob whose size nobody declared; kept. Raises BadData when its bytes are not those of the digest."""
    if blobs.has(digest):
        return blobs.read(digest, max_bytes)
    data = peer.get(blob_path(digest), max_bytes)
    if hashlib.sha256(data).hexdigest() != digest:
        raise BadData(
            f"{peer.url}{blob_path(digest)} answered with bytes that have another digest",
            "tell the operator of the peer",
        )
    blobs.put_bytes(data)
    return data


def fetch_files(peer: Peer, files: Sequence[File], blobs: BlobStore, on_progress: OnProgress = no_progress) -> int:
    """Fetch the files that are not here yet, one after the other; returns the bytes that travelled."""
    wanted = {file.sha256: file for file in files}
    total = sum(file.size for file in wanted.values())
    done = moved = 0
    for file in wanted.values():
        before, there = moved, min(blobs.partial_size(file.sha256), file.size)

        def report(here: int, name: str = file.name, start: int = done, moved: int = before - there) -> None:
            on_progress(Progress(name, start + here, total, max(0, moved + here)))

        moved += fetch_file(peer, file, blobs, report)
        done += file.size
        on_progress(Progress(file.name, done, total, moved))
    return moved


def fetch_file(peer: Peer, file: File, blobs: BlobStore, report: Callable[[int], None]) -> int:
    """Fetch one file unless it is here (T2); returns the bytes that travelled.

    A broken connection is taken up again where it broke, as long as some of the tries bring bytes. Bytes that were
    here before and turn out to be wrong are fetched once more from the start. Raises BadData when the peer's bytes
    are not those of the digest, or more or fewer than declared; LocalFailure when they do not come.
    """
    if file.size == 0:
        blobs.put_bytes(b"")
    travelled = fruitless = 0
    doubtful = blobs.partial_size(file.sha256) > 0
    while not blobs.has(file.sha256):
        offset = blobs.partial_size(file.sha256)
        try:
            _fetch_rest(peer, file, blobs, report)
        except Broken:
            arrived = blobs.partial_size(file.sha256) - offset
            fruitless = 0 if arrived > 0 else fruitless + 1
            if fruitless >= FRUITLESS_TRIES:
                raise
            travelled += max(0, arrived)
            continue
        travelled += max(0, file.size - offset)
        try:
            blobs.finish_partial(file.sha256, file.size)
        except BadData:
            if not doubtful:
                raise
            doubtful = False
    return travelled


def _fetch_rest(peer: Peer, file: File, blobs: BlobStore, report: Callable[[int], None]) -> None:
    """Append what is missing of a file (T8)."""
    url = f"{peer.url}{blob_path(file.sha256)}"
    here = blobs.partial_size(file.sha256)
    if here >= file.size:
        return
    for piece in peer.transport.get_range(url, here, max_bytes=file.size - here, timeout_s=peer.limits.file_s):
        blobs.append_partial(file.sha256, here, piece, file.size)
        here += len(piece)
        report(here)
    if here < file.size:
        raise BadData(
            f"{url} sent {here:,} of the {file.size:,} bytes that the release declares", "tell the operator of the peer"
        )


def check_space(files: Sequence[File], blobs: BlobStore, free_bytes: int, max_file_bytes: int) -> None:
    """Refuse before the first byte what is larger than allowed (BadData) or than the free disk (LocalFailure) (T9)."""
    missing = {file.sha256: file for file in files if not blobs.has(file.sha256)}
    for file in missing.values():
        if file.size > max_file_bytes:
            raise BadData(
                f"{file.name} has {file.size:,} bytes, more than the {max_file_bytes:,} allowed for one file",
                "node config set max_blob_bytes N",
            )
    needed = sum(file.size - min(file.size, blobs.partial_size(file.sha256)) for file in missing.values())
    if needed > free_bytes:
        raise LocalFailure(
            f"{needed:,} bytes are needed, {free_bytes:,} are free on the disk of the home folder",
            "free some space, or move the home folder (--home)",
        )
