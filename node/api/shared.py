"""Which releases others may see.

Everything that came from others or is a bare base; what was trained here, only where somebody is enrolled below it, for
it is theirs to build on. A child's own work is seen by nobody but, as an update that it published, by its parent;
unless `share_own` is set.
"""

from __future__ import annotations

from collections.abc import Iterable

from node.context import Node
from registry.paths import NodePath
from registry.store import Session, select
from registry.tables import EnrolmentRow, ReleaseRow


def shared(node: Node, session: Session, rows: Iterable[ReleaseRow]) -> list[ReleaseRow]:
    """Those of some releases that others may see."""
    if node.settings.share_own:
        return list(rows)
    enrolled = select(EnrolmentRow.path).where(
        EnrolmentRow.state == "active", EnrolmentRow.key_id != node.key.public.id
    )
    places = [NodePath.parse(path) for path in session.scalars(enrolled)]
    return [
        row
        for row in rows
        if not row.own or row.adapter is None or any(place.is_within(NodePath.parse(row.path)) for place in places)
    ]
