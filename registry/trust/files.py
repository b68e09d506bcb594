"""Files that are there whole or not at all, and one writer at a time: what python-tuf leaves to its callers."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import stamina

from registry.durable import make_folder, sync_folder
from registry.errors import LocalFailure

WAIT_S: Final = 60.0
NO_ROOM: Final = "free some disk space if there is none, else see who owns the folder"
_LOCK: Final = ".lock"
_NEW: Final = ".new-"


@contextmanager
def locked(folder: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Be the only one at work in a folder, which is made where it is missing; what a killed writer left is removed.

    The lock is the kernel's and goes with the process. Raises LocalFailure when another holds it for `wait_s`, or the
    folder cannot be made.
    """
    try:
        make_folder(folder)
        lock = (folder / _LOCK).open("a")
    except OSError as error:
        raise LocalFailure(f"cannot work in {folder}: {error.strerror}", NO_ROOM) from error
    with lock as held:
        try:
            for attempt in stamina.retry_context(
                on=BlockingIOError, attempts=None, timeout=wait_s, wait_initial=0.01, wait_max=0.2, wait_jitter=0.01
            ):
                with attempt:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LocalFailure(
                f"another process works in {folder} for more than {wait_s:g} s", "try again when it is done"
            ) from error
        for left in folder.glob(f"{_NEW}*"):
            left.unlink(missing_ok=True)
        yield


def write_whole(file: Path, data: bytes) -> None:
    """Give a file these bytes in one step that survives a power cut: bytes first, then the name, then the folder.

    Raises LocalFailure when the disk does not take them; the file is then what it was.
    """
    try:
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=_NEW)  # mode 0600
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            Path(name).replace(file)
        finally:
            Path(name).unlink(missing_ok=True)
        sync_folder(file.parent)
    except OSError as error:
        raise LocalFailure(f"cannot write {file}: {error.strerror}", NO_ROOM) from error
