"""Flower's grid with patience: one reply that cannot be read, or does not come, is that reply's loss alone.

Flower pulls all replies at once; one that cannot be put together raises out of the call and takes the others, which
were confirmed already, with it. Here every reply is pulled by itself, until the deadline.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

import httpx
from flwr.app import Message
from flwr.serverapp import Grid

log = logging.getLogger(__name__)


class PatientGrid:
    """What `Strategy.start` needs of a grid, around one of Flower's; `pause` waits between two looks."""

    def __init__(self, grid: Grid, pause: Callable[[float], None] = time.sleep, every_s: float = 0.5) -> None:
        self.grid, self.pause, self.every_s = grid, pause, every_s

    def get_node_ids(self) -> list[int]:
        """The clients that are there."""
        return list(self.grid.get_node_ids())

    def gather(self, least: int, within_s: float) -> list[int]:
        """Wait for so many clients; those that are there when they are enough, or time is over."""
        until = time.monotonic() + within_s
        while len(nodes := self.get_node_ids()) < least and time.monotonic() < until:
            self.pause(self.every_s)
        return nodes

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send the messages, and take replies until all are there or the time is over: later ones are lost (J5)."""
        sent = list(messages)
        waiting = {number for number in self.grid.push_messages(sent) if number} if sent else set()
        replies: list[Message] = []
        until = time.monotonic() + (timeout or 0.0)
        while waiting:
            for number in sorted(waiting):
                found, done = self._pulled(number)
                replies += found
                if done:
                    waiting.discard(number)
            if not waiting or time.monotonic() >= until:
                return replies
            self.pause(self.every_s)
        return replies

    def _pulled(self, number: str) -> tuple[list[Message], bool]:
        """The reply to one message, and whether there is no sense in asking again."""
        try:
            found = list(self.grid.pull_messages([number]))
        except httpx.HTTPError:
            raise
        except Exception:  # whatever a foreign reply breaks in Flower is that reply's affair
            log.exception("a reply could not be put together")
            return [], True
        return found, bool(found)
