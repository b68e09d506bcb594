"""What a fine-tune stands on: the pinned releases whose sum stays as it is, and the adapter that it goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.context import Node
from registry.documents import File, ReleasePin
from registry.errors import LocalFailure
from registry.paths import NodePath
from registry.rows import Row, read_rows
from registry.store import select
from registry.tables import HeadRow
from sync.chain import Link, stored_chain

if TYPE_CHECKING:
    from node.manifest import Ground


@dataclass(frozen=True, slots=True)
class Footing:
    """Releases at and above a path.

    `chain` (top first) is what the new adapter is relative to. `start` is the release at the path itself, if there is
    one: its own adapter is trained further. At least one of the two is there.
    """

    path: NodePath
    chain: Sequence[Link]
    start: Link | None

    @property
    def last(self) -> Link:
        """The nearest release."""
        return self.start or self.chain[-1]

    @property
    def above(self) -> ReleasePin | None:
        """The pin that the new release carries; None where the path is the top of its tree."""
        return self.chain[-1].pin if self.chain else None

    @property
    def anchors(self) -> File | None:
        """The nearest anchor set, and so the one that the new release hands on."""
        links = [*self.chain, *([self.start] if self.start else [])]
        return next((link.release.anchors for link in reversed(links) if link.release.anchors), None)

    def ground(self) -> Ground:
        """As it stands in the manifest."""
        from node.manifest import Ground

        return Ground(
            base=self.last.release.base,
            above=self.above,
            start=self.start.digest if self.start else None,
            anchors=self.anchors.sha256 if self.anchors else None,
        )


def find_footing(node: Node, path: NodePath) -> Footing:
    """The footing of a path now: the head at the path, else at the nearest place above it.

    Raises LocalFailure when this node has no release there.
    """
    places = [str(place) for place in reversed(path.chain())]
    with node.store.read() as session:
        heads = {row.path: row.release for row in session.scalars(select(HeadRow).where(HeadRow.path.in_(places)))}
    nearest = next((heads[place] for place in places if place in heads), None)
    if nearest is None:
        raise LocalFailure(
            f"this node has no release at {path} or above it", f"node pull {path.parent or path}, or node import DIR"
        )
    return footing_on(node, path, nearest)


def footing_on(node: Node, path: NodePath, release: str) -> Footing:
    """The footing of a path on one given release at it or above it."""
    links = stored_chain(node.store, node.blobs, release)
    if links[-1].release.path == str(path):
        return Footing(path, links[:-1], links[-1])
    return Footing(path, links, None)


def read_anchors(node: Node, footing: Footing) -> list[Row]:
    """The rows of the anchor set; none where there is no set."""
    file = footing.anchors
    return read_rows(node.blobs.open_verified(file.sha256), file.size) if file else []
