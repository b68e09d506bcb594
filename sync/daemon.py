"""The loop of a node's daemon: rounds of duties, one after the other, until it is told to stop.

One daemon per home: the lock is the kernel's and goes with the process, however it ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from threading import Event, Thread, current_thread
from typing import IO

from registry.errors import LocalFailure

log = logging.getLogger(__name__)

Duty = Callable[[datetime], object]


@contextmanager
def only_daemon(lock: Path) -> Iterator[None]:
    """Hold the lock of a home. Raises LocalFailure, naming the process, when another daemon holds it."""
    with lock.open("a+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LocalFailure(
                f"another daemon (process {_holder(held)}) runs on {lock.parent}",
                "stop it first, or give this one another --home",
            ) from error
        held.truncate(0)
        held.write(str(os.getpid()))
        held.flush()
        yield


def daemon_of(lock: Path) -> str | None:
    """The process that holds the lock of a home, None while nobody does."""
    if not lock.exists():
        return None
    with lock.open("r") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(held)
    return None


def _holder(lock: IO[str]) -> str:
    lock.seek(0)
    return lock.read(20).strip() or "unknown"


def run_rounds(
    duties: Sequence[Duty], stop: Event, wake: Event, pause_s: Callable[[], float], now: Callable[[], datetime]
) -> None:
    """Do every duty, wait for `wake` or for a pause, again. A duty that breaks down is logged, the loop goes on.

    A round has a thread of its own, which ends with it: what computes leaves no team of OpenMP's behind, whose idle
    workers would slow an engine in the same process (see `node.engine.worker`). It does not keep the process.
    """
    while not stop.is_set():
        one = Thread(target=_round, args=(duties, stop, now), name=current_thread().name, daemon=True)
        one.start()
        one.join()
        if not stop.is_set():
            wake.wait(pause_s())
            wake.clear()


def _round(duties: Sequence[Duty], stop: Event, now: Callable[[], datetime]) -> None:
    for duty in duties:
        if stop.is_set():
            return
        try:
            duty(now())
        except Exception:  # the daemon outlives a mistake in one round; it stands in the log
            name = getattr(duty, "__name__", duty)
            if stop.is_set():  # what it works with may be closed by now: no mistake, and it goes on at the next start
                log.info("a round of %s was cut short: the node ends", name)
            else:
                log.exception("a round of %s broke down", name)
