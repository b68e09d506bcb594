"""Who sends a release to whom: one transfer at a time out of a node, whoever asked first first."""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from simulations.scale.costs import Costs
from simulations.scale.events import Events
from simulations.scale.shape import Shape


@dataclass(slots=True)
class _Family:
    """The children of a node that wait for a release, each since when, and who could send it now."""

    asked: deque[tuple[int, float]] = field(default_factory=deque)
    free: deque[int] = field(default_factory=deque)


class Links:
    """Transfers within each family: from the parent, with `caching` from children that have the release too.

    `on_sent(at, child)` is planned for the moment at which the last byte has left.
    """

    def __init__(
        self, shape: Shape, costs: Costs, events: Events, on_sent: Callable[[float, int], None], *, caching: bool
    ) -> None:
        self._shape, self._events, self._on_sent, self._caching = shape, events, on_sent, caching
        self._bytes, self._seconds = costs.release_bytes, costs.release_bytes / costs.link_bytes_per_s
        self._families: defaultdict[int, _Family] = defaultdict(_Family)
        self.sent = array("d", bytes(8 * shape.nodes))  # bytes that each node gave away
        self.longest_wait_s = 0.0

    def has(self, at: float, node: int) -> None:
        """A node has the release from now on, for its children and, with `caching`, for its siblings."""
        if self._shape.children(node):
            self._families[node].free.append(node)
        if self._caching and node:
            self._free(at, (self._shape.parent(node), node))

    def ask(self, at: float, child: int) -> None:
        """A child, whose parent has the release, wants it."""
        family = self._families[self._shape.parent(child)]
        family.asked.append((child, at))
        self._serve(at, family, self._shape.parent(child))

    def _serve(self, at: float, family: _Family, parent: int) -> None:
        while family.asked and family.free:
            (child, asked), source = family.asked.popleft(), family.free.popleft()
            self.longest_wait_s = max(self.longest_wait_s, at - asked)
            self.sent[source] += self._bytes
            self._events.plan(at + self._seconds, self._free, (parent, source))
            self._events.plan(at + self._seconds, self._on_sent, child)

    def _free(self, at: float, link: tuple[int, int]) -> None:
        parent, source = link
        family = self._families[parent]
        family.free.append(source)
        self._serve(at, family, parent)
