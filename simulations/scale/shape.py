"""A tree in which every node has the same number of children, by arithmetic alone: a million nodes take no memory."""

from __future__ import annotations

from dataclasses import dataclass

from registry.errors import BadData

MAX_NODES = 10_000_000
MAX_FAN_OUT = 100_000


@dataclass(frozen=True, slots=True)
class Shape:
    """`nodes` nodes, numbered from the root (0) downwards and from left to right; the last level may not be full.

    Raises BadData for a tree that cannot be.
    """

    nodes: int
    fan_out: int

    def __post_init__(self) -> None:
        if not 2 <= self.nodes <= MAX_NODES:
            raise BadData(f"a tree of {self.nodes} nodes", f"from 2 to {MAX_NODES:,} nodes can be simulated")
        if not 1 <= self.fan_out <= MAX_FAN_OUT:
            raise BadData(f"{self.fan_out} children for each node", f"from 1 to {MAX_FAN_OUT:,} are possible")
        if self.fan_out == 1 and self.nodes > 1_000:
            raise BadData(f"a chain of {self.nodes} nodes", "give each node 2 children or more")

    def parent(self, node: int) -> int:
        """The node above; the root has none and is not to be asked for."""
        return (node - 1) // self.fan_out

    def children(self, node: int) -> range:
        """The nodes below, none for a leaf."""
        first = node * self.fan_out + 1
        return range(min(first, self.nodes), min(first + self.fan_out, self.nodes))

    @property
    def first_leaf(self) -> int:
        """From this node on all are leaves."""
        return self.parent(self.nodes - 1) + 1

    def levels(self) -> list[range]:
        """The nodes of each level, the root's first."""
        found, first, width = list[range](), 0, 1
        while first < self.nodes:
            found.append(range(first, min(first + width, self.nodes)))
            first, width = first + width, width * self.fan_out
        return found

    def below(self) -> list[int]:
        """How many nodes are below each inner node, their children's children included."""
        counts = [0] * self.nodes
        for node in range(self.nodes - 1, 0, -1):
            counts[self.parent(node)] += counts[node] + 1
        return counts[: self.first_leaf]
