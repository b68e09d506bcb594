"""Hints: a peer says that something changed, so that nobody has to wait for the next round.

A hint is believed nothing: it only wakes. What changed is asked for and proven in the round that follows, and a peer
that sends hints without end gets no more rounds than one a second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from threading import Event
from typing import Final

from registry.errors import BanyanError
from sync.transport import HttpTransport

log = logging.getLogger(__name__)

HINTS_PATH: Final = "/v1/hints"
STALL_S: Final = 45.0  # a server sends a comment every 15 s
STREAM_S: Final = 3_600.0
STREAM_BYTES: Final = 256 << 10
LEAST_PAUSE_S: Final = 1.0

OpenHints = Callable[[], AbstractContextManager[Iterator[str]]]


def open_hints(transport: HttpTransport, url: str) -> AbstractContextManager[Iterator[str]]:
    """The hints of the node at `url`: for an hour and a few bytes at most (S2)."""
    return transport.events(f"{url}{HINTS_PATH}", max_bytes=STREAM_BYTES, timeout_s=STREAM_S)


def listen(
    open_stream: OpenHints,
    on_hint: Callable[[str], None],
    stop: Event,
    pause_s: Callable[[int], float],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Pass hints on until `stop` (S1, S2); a stream that ends is opened again after `pause_s(streams that were short)`.

    `on_hint` is also called with "open" and "closed". The first hint on a stream is "hello": from then on nothing is
    missed, and what was missed before it is to be asked for.
    """
    short = 0
    while not stop.is_set():
        began = clock()
        try:
            with open_stream() as hints:
                on_hint("open")
                for hint in hints:
                    on_hint(hint)
                    if stop.wait(LEAST_PAUSE_S):
                        return
        except BanyanError as error:
            log.debug("hints: %s", error.message)
        except Exception:  # the loop outlives a mistake on one stream; it stands in the log
            log.exception("reading hints broke down")
        on_hint("closed")
        short = short + 1 if clock() - began < STALL_S else 1
        stop.wait(pause_s(short))
