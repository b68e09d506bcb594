"""What runs on a home until it is told to end: `node up` (interface and rounds), `node sync run` (rounds), one round.

Two loops, so that a peer that is slow or hostile does not hold up what is computed here: `exchange` talks with the
parent, `work` decides about updates, makes releases and rebases. Two more threads watch the logs and read the
parent's hints. What computes is imported under the lock of the home, so that a second daemon is refused at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from node.context import Node, parent_of
from node.exchange import Exchanged, exchange, note_listening
from node.leftovers import sweep
from node.logs import set_up_logs, tried_again
from node.own_log import check_promise
from node.repository import Publisher
from node.watched_logs import log_round
from registry.errors import LocalFailure
from sync.backoff import interval_s, pause_s
from sync.daemon import Duty, only_daemon, run_rounds
from sync.hints import STALL_S, listen, open_hints

if TYPE_CHECKING:
    from node.rebasing import Rebased
    from sync.promote import Promoter
    from sync.train import StepReport

log = logging.getLogger(__name__)

LOOPS = frozenset({"work", "log", "exchange"})  # the names of their threads
END_S = 5.0  # that each of them gets to come to its end
THOROUGH = 0.02  # of the rounds ask after settled updates too, where no hint said that one has changed


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did. `exchanged` is None where this node has no parent."""

    exchanged: Exchanged | None
    rebased: list[Rebased]


def run(node: Node) -> None:
    """Serve and follow until the process is told to end.

    Raises LocalFailure when a daemon runs on this home, or its log is older than what it gave out (L7).
    """
    set_up_logs(node.settings.log_format)
    with only_daemon(node.home.daemon_lock):
        _prepare(node)
        with ExitStack() as running:
            serve(node, lambda: running.enter_context(rounds(node)))


def run_alone(node: Node) -> None:
    """The rounds without the interface, until Ctrl-C or SIGTERM. Raises LocalFailure as `run` does."""
    set_up_logs(node.settings.log_format)
    ended = threading.Event()
    with only_daemon(node.home.daemon_lock):
        _prepare(node)
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, lambda number, frame: ended.set())
        with rounds(node):
            ended.wait()


def run_once(node: Node, now: datetime, chance: float) -> Round:
    """One round of everything, the parent asked even if it failed a moment ago. Raises LocalFailure as `run` does."""
    with only_daemon(node.home.daemon_lock):
        from node.passing_up import pass_up
        from node.promotions import parent_round, promoter
        from node.rebasing import rebase_round

        has_parent = bool(node.settings.parent_url)
        exchanged = exchange(node, now, chance, thorough=True, insist=True) if has_parent else None
        parent_round(node, promoter(node), now)
        pass_up(node, now)
        rebased = rebase_round(node, now) if has_parent and node.settings.follow_parent else []
        Publisher(node).renew(now)
        log_round(node, now)
        return Round(exchanged, rebased)


def serve(node: Node, on_listening: Callable[[], object]) -> None:
    """Answer requests until the process is told to end, then let those that run come to their end.

    What computes begins when requests are answered: importing it takes seconds of the same processor.
    """
    from node.api.app import create_app
    from node.api.server import make_server, until_told
    from node.serving.models import Models

    settings = node.settings
    models = Models(node) if settings.serve != "off" else None

    def begin() -> None:
        if models is not None and settings.serve == "eager":
            threading.Thread(target=models.load_all, name="load", daemon=True).start()
        on_listening()

    try:
        server = make_server(create_app(node, models), settings.host, settings.port, settings.drain_s)
        server.on_listening = begin
        asyncio.run(until_told(server))
    finally:
        if models is not None:
            models.close()


def leave() -> None:
    """For `atexit`, after a daemon: end the process without Python's own end where a loop still computes.

    Python would abort it inside of torch. Nothing is lost: what a loop is in the middle of resumes as after a kill.
    """
    if any(thread.name in LOOPS for thread in threading.enumerate()):
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(0)


@contextmanager
def rounds(node: Node, chance: Callable[[], float] = random.random) -> Iterator[None]:
    """The loops, in threads that do not keep the process: what they are in the middle of resumes at the next start."""
    loops = _Loops(node, chance)
    for thread in loops.threads():
        thread.start()
    try:
        yield
    finally:
        loops.end()


class _Loops:
    """The threads of one daemon and what they tell each other."""

    def __init__(self, node: Node, chance: Callable[[], float]) -> None:
        self._node, self._chance = node, chance
        self._stop = threading.Event()
        self._to_exchange, self._to_work, self._to_watch = threading.Event(), node.arrived, threading.Event()
        self._hinted = threading.Event()  # the parent has decided something
        self._running: list[threading.Thread] = []
        self._at_work: Promoter | None = None

    def threads(self) -> list[threading.Thread]:
        """What this node is: a parent of whoever is enrolled, and a child where it has a parent."""
        node = self._node
        self._running = [
            self._loop("work", [self._compute, Publisher(node).renew], self._to_work),
            self._loop("log", [partial(log_round, node)], self._to_watch),
        ]
        if node.settings.parent_url:
            self._running.append(self._loop("exchange", [self._exchange], self._to_exchange))
            self._running.append(threading.Thread(target=self._listen, name="hints", daemon=True))
        return self._running

    def end(self) -> None:
        """Let the loops end, and wait a little for them; reading hints may take longer, and nothing depends on it."""
        for event in (self._stop, self._to_exchange, self._to_work, self._to_watch):
            event.set()
        for thread in self._running:
            thread.join(timeout=END_S if thread.name != "hints" else 0)

    def _loop(self, name: str, duties: list[Duty], wake: threading.Event) -> threading.Thread:
        return threading.Thread(
            target=run_rounds,
            args=(duties, self._stop, wake, self._pause_s, lambda: datetime.now(UTC)),
            name=name,
            daemon=True,
        )

    def _pause_s(self) -> float:
        return interval_s(self._node.settings.poll_interval_s, self._chance())

    def _compute(self, now: datetime) -> None:
        """Decide about updates, make releases, offer them, rebase; imported here, as what that needs takes seconds."""
        from node.passing_up import pass_up
        from node.promotions import parent_round, promoter
        from node.rebasing import rebase_round

        node, settings = self._node, self._node.settings
        if self._at_work is None:
            self._at_work = promoter(node, on_step=self._go_on)
        parent_round(node, self._at_work, now)
        if pass_up(node, now):
            self._to_exchange.set()
        if settings.parent_url and settings.follow_parent and not self._stop.is_set():
            rebase_round(node, now, on_step=self._go_on)

    def _go_on(self, _: StepReport) -> None:
        """Between two steps of a training; raises LocalFailure when the node ends, as what is left may take minutes."""
        if self._stop.is_set():
            raise LocalFailure("the node ends", "its next start goes on from the last checkpoint")

    def _exchange(self, now: datetime) -> None:
        """A round with the parent; what it brought is worked on at once."""
        thorough = self._hinted.is_set() or self._chance() < THOROUGH
        self._hinted.clear()
        done = exchange(self._node, now, self._chance(), thorough=thorough)
        if done.new or done.error is not None:
            self._to_work.set()

    def _listen(self) -> None:
        """Read the parent's hints (S1)."""
        node = self._node

        def on_hint(hint: str) -> None:
            log.debug("hint: %s", hint)
            if hint in ("open", "closed"):
                self._note(hint)
            else:
                self._hinted.set()
                self._to_exchange.set()

        def pause(short: int) -> float:
            return pause_s(short, node.settings.peer_backoff_max_s, self._chance())

        listen(lambda: open_hints(node.transport(STALL_S), parent_of(node).url), on_hint, self._stop, pause)

    def _note(self, hint: str) -> None:
        with tried_again("hints"):
            note_listening(self._node, hint, datetime.now(UTC))


def _prepare(node: Node) -> None:
    """What comes before the first round. Raises LocalFailure where the log is older than what it gave out (L7)."""
    with node.store.read() as session:
        check_promise(session, node.home.log_checkpoint)
    _tidy(node)


def _tidy(node: Node) -> None:
    """Remove what ended processes left; what that cannot do is no reason not to start."""
    with tried_again("left-overs"):
        log.info("%d left-overs of ended processes removed", sweep(node, datetime.now(UTC)))
