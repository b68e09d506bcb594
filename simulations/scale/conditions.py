"""The circumstances that a tree is played in: what fails, who listens, what the operators have set."""

from __future__ import annotations

from dataclasses import dataclass

from registry.errors import BadData
from sync.policy import NEED_GAIN, NEED_NORMS, POLICIES

UNMEASURED = NEED_NORMS | NEED_GAIN  # policies that look at what updates are, and here they are but numbers


@dataclass(frozen=True, slots=True)
class Conditions:
    """Raises BadData for what cannot be.

    `failing`: the chance that a contact fails. `listeners`: children of a node that hear its hints, the others ask from
    time to time. `caching`: files may come from a sibling that has them, which no real node does yet. `cores`: of one
    machine that all nodes share, as in a test; 0 gives each node a core of its own.
    """

    policy: str = "every-n"
    every: int = 2
    longest_wait_s: float = 86_400.0
    failing: float = 0.0
    listeners: int = 200
    caching: bool = False
    pending: int = 64  # updates that may wait at a node for their verdict
    poll_s: float = 30.0
    longest_pause_s: float = 300.0
    cores: int = 0
    window_s: float = 3_600.0  # in which every leaf offers one update

    def __post_init__(self) -> None:
        known = sorted(POLICIES.keys() - UNMEASURED)
        if self.policy not in known:
            why = "needs trained adapters" if self.policy in UNMEASURED else "is not known"
            raise BadData(f"the policy {self.policy!r} {why}", f"here one of: {', '.join(known)}")
        if not 0 <= self.failing < 1:
            raise BadData(f"{self.failing} of all contacts fail", "a share from 0 to below 1")
        if self.every < 1 or self.pending < 1 or self.listeners < 0 or self.cores < 0:
            raise BadData("a number of updates, listeners or cores is too small", "1 update or more, 0 of the others")
        if min(self.longest_wait_s, self.poll_s, self.longest_pause_s) <= 0 or self.window_s < 0:
            raise BadData("a time is not positive", "seconds above 0; only the window may be 0")
