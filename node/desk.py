"""Where jobs are asked for and looked at on behalf of somebody: the one door for conversation and tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from node.context import Node
from node.jobs import queue
from node.jobs.queue import Job, UnknownJob
from node.jobs.requests import JobRequest, placed


@dataclass(frozen=True, slots=True)
class Desk:
    """The desk of one owner; `from_outside` as in `jobs.requests.placed`."""

    node: Node
    owner: str
    from_outside: bool
    now: Callable[[], datetime]

    def ask(self, request: JobRequest) -> Job:
        """Queue a job. Raises BadData for a file that is not there, Busy where too much waits."""
        asked = placed(request, self.node.home, from_outside=self.from_outside)
        return queue.add(self.node.store, asked, self.owner, self.now())

    def look(self, number: int) -> Job | None:
        """A job of the owner by its number, 0 for the newest; None where there is none."""
        if number == 0:
            return next(iter(queue.jobs(self.node.store, self.owner, 1)), None)
        try:
            return queue.find(self.node.store, number, self.owner)
        except UnknownJob:
            return None
