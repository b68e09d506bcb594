"""Processes that make themselves ready once and then play one thing after another."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

Thing = TypeVar("Thing")


def spread(
    ready: Callable[..., Callable[[Thing], Thing]], given: tuple[Any, ...], things: Sequence[Thing], workers: int
) -> Iterator[Thing]:
    """Each of the things once it was played, by so many processes; `ready(*given)` makes in each what plays them.

    Both must be importable by name. Raises what playing raises; Ctrl-C is for the caller, whose end stops them.
    """
    with multiprocessing.get_context("spawn").Pool(workers, _begin, (ready, given)) as pool:
        yield from pool.imap_unordered(_play, things)


_player: Callable[[Any], Any] | None = None


def _begin(ready: Callable[..., Callable[[Any], Any]], given: tuple[Any, ...]) -> None:
    global _player  # noqa: PLW0603  a worker has one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _player = ready(*given)


def _play(thing: Any) -> Any:
    if _player is None:
        raise RuntimeError("the worker was not made ready")
    return _player(thing)
