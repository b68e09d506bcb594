from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from registry.errors import LocalFailure
from sync.daemon import Duty, daemon_of, only_daemon, run_rounds

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOLDER = """
import sys
from pathlib import Path
from sync.daemon import only_daemon
with only_daemon(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def started(duties: list[Duty], interval_s: float) -> tuple[threading.Event, threading.Event, threading.Thread]:
    stop, wake = threading.Event(), threading.Event()
    thread = threading.Thread(target=run_rounds, args=(duties, stop, wake, lambda: interval_s, lambda: NOW))
    thread.start()
    return stop, wake, thread


def ended(thread: threading.Thread) -> bool:
    thread.join(timeout=20)
    return not thread.is_alive()


def test_a_second_daemon_is_refused_and_told_which_is_the_first(tmp_path: Path) -> None:
    lock, root = tmp_path / "daemon.lock", Path(__file__).parents[2]
    arguments = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        for _ in range(2):
            with (
                pytest.raises(LocalFailure, match=rf"\(process {other.pid}\) runs on .*{tmp_path.name}"),
                only_daemon(lock),
            ):
                pass
        assert daemon_of(lock) == str(other.pid)
        other.kill()
        other.wait(timeout=20)
    assert daemon_of(lock) is None
    with only_daemon(lock):
        pass
    assert daemon_of(lock.with_name("none")) is None


def test_the_lock_is_given_back_when_the_daemon_fails(tmp_path: Path) -> None:
    lock = tmp_path / "daemon.lock"
    with pytest.raises(ZeroDivisionError), only_daemon(lock):
        raise ZeroDivisionError
    with only_daemon(lock):
        pass


def test_rounds_do_every_duty_in_order_until_the_end() -> None:
    done: list[str] = []
    enough = threading.Event()

    def duty(name: str) -> Duty:
        def act(now: datetime) -> None:
            assert now == NOW
            done.append(name)
            if len(done) >= 9:
                enough.set()

        return act

    stop, wake, thread = started([duty("a"), duty("b"), duty("c")], 0.0)
    assert enough.wait(20)
    stop.set()
    wake.set()
    assert ended(thread)
    assert done[:9] == ["a", "b", "c"] * 3


def test_a_duty_that_breaks_down_is_logged_and_the_rest_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    rounds: list[int] = []
    twice = threading.Event()

    def broken(now: datetime) -> None:
        raise KeyError("a mistake of ours")

    def sound(now: datetime) -> None:
        rounds.append(1)
        if len(rounds) == 2:
            twice.set()

    stop, wake, thread = started([broken, sound], 0.0)
    assert twice.wait(20)
    stop.set()
    wake.set()
    assert ended(thread)
    assert "a round of broken broke down" in caplog.text
    assert "a mistake of ours" in caplog.text


def test_waking_ends_the_wait_at_once() -> None:
    called: list[threading.Event] = [threading.Event() for _ in range(3)]
    calls = iter(called)
    stop, wake, thread = started([lambda now: next(calls).set()], 3600.0)
    assert called[0].wait(20)
    wake.set()
    assert called[1].wait(20)
    assert not called[2].is_set()
    stop.set()
    wake.set()
    assert ended(thread)


def test_no_duty_begins_after_the_end_was_asked_for() -> None:
    done: list[str] = []
    stop = threading.Event()

    def last(now: datetime) -> None:
        done.append("last")
        stop.set()

    never: Callable[[datetime], None] = lambda now: done.append("never")  # noqa: E731
    run_rounds([last, never], stop, threading.Event(), lambda: 3600.0, lambda: NOW)
    assert done == ["last"]


def test_every_round_has_a_thread_that_ends_with_it() -> None:
    """Whatever a training leaves to its thread goes with it, and none of them keeps the process."""
    threads: list[threading.Thread] = []
    twice = threading.Event()

    def duty(now: datetime) -> None:
        threads.append(threading.current_thread())
        if len(threads) == 2:
            twice.set()

    stop, wake, thread = started([duty], 0.0)
    assert twice.wait(20)
    stop.set()
    wake.set()
    assert ended(thread)
    assert len(set(threads)) == len(threads)
    assert not any(one.is_alive() for one in threads)
    assert all(one.daemon and one.name == thread.name for one in threads)


def test_a_round_that_the_end_of_the_node_cuts_short_is_no_mistake(caplog: pytest.LogCaptureFixture) -> None:
    """What a duty works with is closed while it runs."""
    caplog.set_level("INFO")
    begun, closed = threading.Event(), threading.Event()

    def cut_short(now: datetime) -> None:
        begun.set()
        closed.wait(20)
        raise ValueError("the database is closed")

    stop, wake, thread = started([cut_short], 60.0)
    assert begun.wait(20)
    stop.set()
    wake.set()
    closed.set()
    assert ended(thread)
    assert "a round of cut_short was cut short: the node ends" in caplog.text
    assert "Traceback" not in caplog.text
