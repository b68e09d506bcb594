"""`Worker`: the one thread of an engine, and the queue of what others want done in it between two turns."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from node.engine.errors import EngineError, EngineStopped

log = logging.getLogger(__name__)

T = TypeVar("T")
NAP_S: Final = 0.05  # before another look when there is work that cannot go on yet
SLEEP_S: Final = 60.0  # longest sleep without work
JOIN_S: Final = 30.0


def apart(work: Callable[[], T]) -> T:
    """Do it in a thread that ends with it; raises what it raises. For tensors that callers in lasting threads want.

    OpenMP keeps a team of workers for every thread that ever ran a parallel operation, and with more of them than
    cores all of them sleep instead of spin between operations: an engine beside one idle team is a third slower.
    """
    with ThreadPoolExecutor(1, "engine-apart") as thread:
        return thread.submit(work).result()


class Worker:
    """Takes turns while there is work and sleeps while there is none.

    `turn` does a piece of the work and says whether there was any; `busy` says whether some is left; `ended` is called
    in the end, also when a turn raised. Until it is started, and in tests always, `run_posted` and `turn` are called by
    hand.
    """

    def __init__(self, turn: Callable[[], bool], busy: Callable[[], bool], ended: Callable[[], None]) -> None:
        self._turn = turn
        self._busy = busy
        self._ended = ended
        self._posted: deque[Callable[[], None]] = deque()
        self._news = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether the thread takes turns."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin to take turns. Raises EngineStopped after `stop`, EngineError when it has begun already."""
        with self._news:
            if self._stopping:
                raise EngineStopped("the engine was closed", "make a new one")
            if self._thread is not None:
                raise EngineError("the engine runs already")
            self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
            self._thread.start()

    def post(self, command: Callable[[], None]) -> None:
        """Have this done before the next turn. Raises EngineStopped when there will be none."""
        with self._news:
            if self._stopping:
                raise EngineStopped("the engine is closed")
            self._posted.append(command)
            self._news.notify()

    def call(self, command: Callable[[], T], timeout_s: float) -> T:
        """Have this done before the next turn and wait for it; at once where no thread takes turns.

        Raises what the command raises, EngineError when its turn does not come in time (it is then not done).
        """
        if not self.alive:
            return command()
        result: Future[T] = Future()

        def answer() -> None:
            if result.set_running_or_notify_cancel():
                try:
                    result.set_result(command())
                except Exception as error:  # noqa: BLE001  it is raised where the command was asked for
                    result.set_exception(error)

        self.post(answer)
        try:
            return result.result(timeout_s)
        except TimeoutError as error:
            if result.cancel():
                raise EngineError(f"the engine did not come to it within {timeout_s:g} s", "try again") from error
            return result.result(timeout_s)

    def run_posted(self) -> None:
        """Do what was posted. One command that fails does not keep the others from being done."""
        while True:
            with self._news:
                if not self._posted:
                    return
                command = self._posted.popleft()
            try:
                command()
            except Exception:
                log.exception("a command to the engine failed")

    def stop(self) -> None:
        """Take no more turns; what was posted is still done. Waits for the thread."""
        with self._news:
            self._stopping = True
            self._news.notify()
            thread = self._thread
        if thread is None:
            self._ended()
        elif thread is not threading.current_thread():
            thread.join(JOIN_S)
            if thread.is_alive():
                log.error("the engine's thread does not end")

    def _run(self) -> None:
        try:
            worked = True
            while self._wait(worked):
                self.run_posted()
                worked = self._turn()
        except Exception:
            log.exception("the engine's thread has to end")
        finally:
            with self._news:
                self._stopping = True
            self.run_posted()
            self._ended()

    def _wait(self, worked: bool) -> bool:
        """Sleep until there is something to do; False when it is time to end."""
        with self._news:
            while not self._stopping and not self._posted:
                if self._busy():
                    if not worked:
                        self._news.wait(NAP_S)
                    break
                self._news.wait(SLEEP_S)
            return not self._stopping
