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
from threading import Event

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
            held.seek(0)
            raise LocalFailure(
                f"another daemon (process {held.read(20).strip() or 'unknown'}) runs on {lock.parent}",
                "stop it first, or give this one another --home",
            ) from error
        held.truncate(0)
        held.write(str(os.getpid()))
        held.flush()
        yield


def run_rounds(
    duties: Sequence[Duty], stop: Event, wake: Event, interval_s: float, now: Callable[[], datetime]
) -> None:
    """Do every duty, wait for `wake` or the interval, again. A duty that breaks down is logged, the loop goes on."""
    while not stop.is_set():
        for duty in duties:
            if stop.is_set():
                return
            try:
                duty(now())
            except Exception:  # the daemon outlives a mistake in one round; it stands in the log
                log.exception("a round of %s broke down", getattr(duty, "__name__", duty))
        wake.wait(interval_s)
        wake.clear()
