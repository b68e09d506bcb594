"""Files by content: each is named by its SHA-256, written whole or not at all, and hashed again when it is read.

    blobs/ab/abcd...          a blob; `.damaged` is put behind the name of one whose bytes have changed
    partial/abcd...           a blob on its way in, which may grow over many calls and after a restart
    partial/.new-...          a blob being written; without its name nobody sees it, `sweep` removes what a kill left

Which blobs are needed, and who may see them, is left to the callers.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Final

from registry.durable import make_folder, sync_folder
from registry.errors import BadData, LocalFailure

CHUNK_BYTES: Final = 1 << 20

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NEW: Final = ".new-"
_DAMAGED: Final = ".damaged"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class BlobStore:
    """The blobs in the folder `root`; `partial` is on the same file system. Safe for threads and processes."""

    def __init__(self, root: Path, partial: Path) -> None:
        self._root = root
        self._partial = partial

    def path(self, digest: str) -> Path:
        """Where the blob lies, if it is here; raises BadData for what is not a digest."""
        _check_digest(digest)
        return self._root / digest[:2] / digest

    def has(self, digest: str) -> bool:
        """Whether the blob is here; its bytes are checked when they are read."""
        return self.path(digest).is_file()

    def put_bytes(self, data: bytes) -> str:
        """Store bytes; returns their digest. Raises LocalFailure (disk full, ...) and then leaves nothing."""
        digest = hashlib.sha256(data).hexdigest()
        with self._failures("store a blob", len(data)):
            if not self._is_sound(digest):
                with self._new_file() as (out, temporary):
                    _write_all(out, data)
                    self._publish(out, temporary, digest)
        return digest

    def put_file(self, source: Path) -> str:
        """Store a copy of a file, read once; returns its digest. Raises LocalFailure and then leaves nothing."""
        with self._failures(f"store {source}", _size_of(source)), _open_regular(source.resolve()) as data:
            hashed = hashlib.sha256()
            with self._new_file() as (out, temporary):
                while chunk := data.read(CHUNK_BYTES):
                    hashed.update(chunk)
                    _write_all(out, chunk)
                if not self._is_sound(hashed.hexdigest()):
                    self._publish(out, temporary, hashed.hexdigest())
        return hashed.hexdigest()

    def read(self, digest: str, max_bytes: int) -> bytes:
        """The blob's bytes, hashed again. Raises BadData if they changed (and sets the file aside) or are too many."""
        with self._failures(f"read blob {digest}"), self._open(digest) as source:
            size = os.fstat(source.fileno()).st_size
            if size > max_bytes:
                raise BadData(f"blob {digest} is too large: {size} bytes, the limit is {max_bytes}")
            data = source.read(size + 1)
            if hashlib.sha256(data).hexdigest() != digest:
                raise self._set_aside(digest)
        return data

    def open_verified(self, digest: str) -> Path:
        """Where the blob lies, after hashing it; raises BadData if its bytes changed (and sets the file aside)."""
        with self._failures(f"read blob {digest}"), self._open(digest) as source:
            if hashlib.file_digest(source, "sha256").hexdigest() != digest:
                raise self._set_aside(digest)
        return self.path(digest)

    def partial_size(self, digest: str) -> int:
        """How many bytes of a blob on its way in are here; 0 if none, or if the blob is whole (`has` tells)."""
        try:
            return self._partial_path(digest).lstat().st_size
        except FileNotFoundError:
            return 0

    def append_partial(self, digest: str, offset: int, data: bytes, size_limit: int) -> int:
        """Write bytes at `offset`, which may repeat bytes but leave no gap (T4); returns how many bytes are now here.

        Raises BadData for a gap or more than `size_limit` bytes in all, LocalFailure if they cannot be written; the
        partial is then no longer than it was.
        """
        with self._failures("receive a file", len(data)), self._locked_partial(digest, os.O_CREAT) as file:
            size, end = os.fstat(file.fileno()).st_size, offset + len(data)
            if not 0 <= offset <= size:
                raise BadData(f"{size} bytes of {digest} are here, not {offset}", hint=f"send from byte {size} on")
            if end > size_limit:
                raise BadData(f"{digest} would have {end} bytes, the limit is {size_limit}")
            try:
                file.seek(offset)
                _write_all(file, data)
            except OSError:
                file.truncate(size)
                raise
            return max(size, end)

    def finish_partial(self, digest: str, size: int) -> Path:
        """Make the blob of a partial that has all its `size` bytes (T1, T5); returns its place.

        Repeating it does nothing. Raises BadData if bytes are missing (the partial stays) or wrong (the partial goes).
        """
        with self._failures("receive a file"):
            try:
                with self._locked_partial(digest) as file:
                    self._finish(file, digest, size)
            except FileNotFoundError as error:
                if not self.has(digest):
                    raise BadData(f"no byte of {digest} is here", hint="send from byte 0 on") from error
        return self.path(digest)

    def _finish(self, file: FileIO, digest: str, size: int) -> None:
        partial, here = self._partial_path(digest), os.fstat(file.fileno()).st_size
        if here < size:
            raise BadData(f"{digest} is not whole: {here} of {size} bytes are here", hint=f"send from byte {here} on")
        if here > size or hashlib.file_digest(file, "sha256").hexdigest() != digest:
            partial.unlink()
            raise BadData(f"the bytes received are not those of {digest}", hint="send the file again")
        if self._is_sound(digest):
            partial.unlink()
        else:
            self._publish(file, partial, digest)

    def discard_partial(self, digest: str) -> None:
        """Forget a blob on its way in."""
        with self._failures("remove a partial file"):
            self._partial_path(digest).unlink(missing_ok=True)

    def sweep(self, before_s: float) -> int:
        """Remove what kills and abandoned transfers left and nobody touched since (epoch seconds); returns how many.

        Folders are not the store's and stay.
        """
        removed = 0
        with self._failures("remove old partial files"):
            for file in self._partial.iterdir() if self._partial.is_dir() else ():
                with suppress(FileNotFoundError):  # finished meanwhile
                    if not file.is_dir() and file.lstat().st_mtime < before_s:
                        file.unlink()
                        removed += 1
        return removed

    def check_integrity(self) -> list[str]:
        """Hash every blob; returns one sentence for each thing that is not as it should be, and changes nothing."""
        problems: list[str] = []
        with self._failures("check the blobs"):
            for file in sorted(self._root.glob("*/*")):
                name = file.relative_to(self._root)
                if file.name.endswith(_DAMAGED):
                    problems.append(f"{name}: set aside as damaged")
                elif not _DIGEST.fullmatch(file.name) or file.parent.name != file.name[:2]:
                    problems.append(f"{name}: not a blob")
                elif not stat.S_ISREG(file.lstat().st_mode):
                    problems.append(f"{name}: not a regular file")
                elif _hash(file) != file.name:
                    problems.append(f"{name}: its bytes have changed")
        return problems

    # What follows is how a file gets its name: the bytes reach the disk, then the name, then the name reaches the disk.

    @contextmanager
    def _new_file(self) -> Iterator[tuple[FileIO, Path]]:
        self._partial.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._partial, prefix=_NEW)  # mode 0600
        try:
            with FileIO(handle, "w") as out:
                yield out, Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def _publish(self, file: FileIO, temporary: Path, digest: str) -> None:
        os.fsync(file.fileno())
        target = self.path(digest)
        make_folder(self._root)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        sync_folder(self._root)  # also where it was there: whoever made it may have been killed before this line
        temporary.replace(target)
        sync_folder(target.parent)

    def _is_sound(self, digest: str) -> bool:
        """Whether the blob is here with the right bytes; a damaged one will be replaced."""
        try:
            return _hash(self.path(digest)) == digest
        except FileNotFoundError:
            return False

    def _open(self, digest: str) -> BufferedReader:
        try:
            return _open_regular(self.path(digest))
        except FileNotFoundError as error:
            raise LocalFailure(f"blob {digest} is not here", hint="run `node pull`") from error

    def _set_aside(self, digest: str) -> BadData:
        file = self.path(digest)
        file.replace(file.with_name(file.name + _DAMAGED))
        return BadData(f"blob {digest} is damaged and was set aside", hint="run `node pull` to fetch it again")

    def _partial_path(self, digest: str) -> Path:
        _check_digest(digest)
        return self._partial / digest

    @contextmanager
    def _locked_partial(self, digest: str, create: int = 0) -> Iterator[FileIO]:
        """The partial, held by nobody else. One that became a blob or was removed while we waited is not written to."""
        file = self._partial_path(digest)
        self._partial.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            handle = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | create, 0o600)
            with FileIO(handle, "r+") as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                if _is_still(held, file):
                    yield held
                    return

    @contextmanager
    def _failures(self, what: str, bytes_needed: int = 0) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL:
                raise LocalFailure(f"cannot {what}: {error.strerror or error}") from error
            place = next(folder for folder in (self._partial, *self._partial.parents) if folder.is_dir())
            free = shutil.disk_usage(place).free
            raise LocalFailure(
                f"cannot {what}: {bytes_needed:,} bytes are needed, {free:,} are free in {place}",
                hint="free some space, or move the home folder (--home)",
            ) from error


def _check_digest(digest: str) -> None:
    if not _DIGEST.fullmatch(digest):
        raise BadData(f"not a SHA-256 in hex: {digest!a:.100}")


def _open_regular(file: Path) -> BufferedReader:
    """Open a file for reading; a link or a device in its place is an OSError and never waits."""
    handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    return os.fdopen(handle, "rb")


def _write_all(out: FileIO, data: bytes) -> None:
    """Write every byte: one write may take only some of them, and the next then says why."""
    rest = memoryview(data)
    while rest:
        rest = rest[out.write(rest) :]


def _hash(file: Path) -> str:
    with _open_regular(file) as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _size_of(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _is_still(held: FileIO, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(held.fileno()), file.lstat())
    except FileNotFoundError:
        return False
