"""One fine-tune at a time on a path: a lock that the kernel releases when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from registry.errors import LocalFailure
from registry.home import Home
from registry.paths import NodePath


@contextmanager
def run_lock(home: Home, path: NodePath) -> Iterator[None]:
    """Hold the lock of a path's runs. Raises LocalFailure naming the other process when it is taken."""
    file = home.runs / f"{path.hub_id.rpartition('/')[2]}.lock"
    try:
        home.runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LocalFailure(f"cannot lock {path}: {error.strerror}: {file}", "node doctor") from error
    with os.fdopen(handle, "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = lock.read(20).strip() or "unknown"
            raise LocalFailure(
                f"{path} is being fine-tuned by another process (number {holder})",
                "wait until it is done, or stop it: the same command then goes on where it was",
            ) from None
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
