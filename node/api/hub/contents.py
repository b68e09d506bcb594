"""What a file of a repository holds: bytes, a file on disk, or weights that are made while they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from node.merged import MergedFile

PIECE_BYTES: Final = 1 << 20
LFS_BYTES: Final = 1 << 20  # from here on, and for all weights, a file is told by its SHA-256; below, by git's hash


class Content(Protocol):
    """The bytes of one file, any part of them."""

    @property
    def size(self) -> int:
        """In bytes."""

    @property
    def etag(self) -> str:
        """What names the bytes: the SHA-256 of a large file, git's hash of a small one."""

    @property
    def sha256(self) -> str | None:
        """The SHA-256 of a large file; None for a small one, and where it is not known."""

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` to `stop`, in pieces."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """A small file, made here."""

    data: bytes
    sha256: None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.data)

    @property
    def etag(self) -> str:
        """Git's hash of the bytes."""
        return git_hash(self.data)

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """One piece."""
        yield self.data[start:stop]


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A file on disk whose SHA-256 is known."""

    path: Path
    size: int
    digest: str
    is_weights: bool

    @property
    def sha256(self) -> str | None:
        """Of a large file."""
        return self.digest if self.is_weights or self.size >= LFS_BYTES else None

    @property
    def etag(self) -> str:
        """The SHA-256 or git's hash."""
        return self.sha256 or _git_hash_of(self.path, self.digest)

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` to `stop`."""
        with self.path.open("rb") as source:
            source.seek(start)
            while start < stop and (piece := source.read(min(PIECE_BYTES, stop - start))):
                start += len(piece)
                yield piece


@dataclass(frozen=True, slots=True)
class Merged:
    """Weights made while they are read: nobody knows their hash before, so their release names them."""

    file: MergedFile
    etag: str
    sha256: None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return self.file.size

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` to `stop`."""
        return self.file.read(start, stop)


def lfs_pointer(content: Content) -> bytes | None:
    """The text that git holds in place of a large file; None for a small one."""
    if content.sha256 is None:
        return None
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{content.sha256}\nsize {content.size}\n"
    return text.encode()


def git_hash(data: bytes) -> str:
    """How git names a file: the SHA-1 of a header and the bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@lru_cache(maxsize=4096)
def _git_hash_of(path: Path, digest: str) -> str:  # noqa: ARG001 - another digest is another file
    return git_hash(path.read_bytes())
