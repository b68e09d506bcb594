"""What works on the jobs of a home: one at a time, each in a child process, until it is told to stop.

One runner per home, by a lock that its child inherits: so a new runner begins only when the old one and its job are
both gone, and knows that no job runs. A child ends with its runner, because the pipe between them does.
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from node.context import Node
from node.jobs.order import Order
from node.jobs.queue import Job, fail, is_running, put_back, recover, take
from registry.errors import BanyanError, LocalFailure

log = logging.getLogger(__name__)

PAUSE_S: Final = 0.5
END_S: Final = 5.0  # that a process gets to end before it is killed
SOURCES: Final = Path(__file__).parents[2]


def _now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def working(node: Node) -> Iterator[None]:
    """Work on the jobs in a thread meanwhile; where another process does already, stand by for its end."""
    stop = threading.Event()
    thread = threading.Thread(target=_stand_by, args=(node, stop), name="jobs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=2 * END_S)


def work_off(node: Node, on_job: Callable[[Job], object], now: Callable[[], datetime] = _now) -> list[int]:
    """Work on the jobs until none waits; returns their numbers.

    Raises LocalFailure where another process works on the jobs of this home.
    """
    with _lock(node) as lock:
        if lock is None:
            raise LocalFailure(f"another process works on the jobs of {node.home.root}", "node jobs list")
        recover(node.store, now())
        stop = threading.Event()
        done: list[int] = []
        while (job := take(node.store, now())) is not None:
            on_job(job)
            _run(node, job, lock, stop, now)
            done.append(job.id)
        return done


def _stand_by(node: Node, stop: threading.Event, now: Callable[[], datetime] = _now) -> None:
    """Take the lock when it is free, then work until told to stop. What breaks down is logged and tried again."""
    while not stop.is_set():
        try:
            with _lock(node) as lock:
                if lock is not None:
                    recover(node.store, now())
                    _work(node, lock, stop, now)
        except (BanyanError, OSError):
            log.exception("work on the jobs broke down")
        stop.wait(PAUSE_S)


def _work(node: Node, lock: int, stop: threading.Event, now: Callable[[], datetime]) -> None:
    while not stop.is_set():
        job = take(node.store, now())
        if job is not None:
            _run(node, job, lock, stop, now)
        else:
            stop.wait(PAUSE_S)


def _run(node: Node, job: Job, lock: int, stop: threading.Event, now: Callable[[], datetime]) -> None:
    """One job in its process, which writes down itself how far it is and what came of it."""
    log.info("job %d (%s) begins", job.id, job.kind)
    order = Order(job=job.id, settings=node.settings.model_dump(mode="json"), passphrase=node.passphrase)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCES), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "node.jobs.work"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=environment,
        pass_fds=(lock,),
    ) as process:
        try:
            _hand_over(process, order)
            while process.poll() is None and is_running(node.store, job.id) and not stop.is_set():
                _wait(process, PAUSE_S)
        finally:
            _end(process)
    if stop.is_set():
        put_back(node.store, job.id, now())
    else:
        why = f"its process ended with {process.returncode} before the work did"
        fail(node.store, job.id, why, "ask for the same again: it goes on where it was", now())  # unless it told more
    log.info("job %d is over", job.id)


def _hand_over(process: subprocess.Popen[bytes], order: Order) -> None:
    """Tell a process what to do. The pipe stays open: its end is the sign that the runner is gone."""
    assert process.stdin is not None  # noqa: S101 - asked for above
    try:
        process.stdin.write(order.model_dump_json().encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:  # it ended at once; its code tells
        log.warning("the process of job %d ended before it began", order.job)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        if not _wait(process, END_S):
            process.kill()
            process.wait()


@contextmanager
def _lock(node: Node) -> Iterator[int | None]:
    """The lock of the jobs as an open file; None while another process holds it."""
    handle = os.open(node.home.jobs_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield handle
    finally:
        os.close(handle)
