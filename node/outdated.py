"""Which own releases stand on a release of the parent that has a successor, and which grafts can learn of one.

Apart from `node.rebasing`, so that a pull that has nothing to rebase loads nothing that computes.
"""

from __future__ import annotations

import json
from typing import Final

from node.context import Node
from node.former_keys import own_keys
from registry.paths import NodePath
from registry.store import select
from registry.tables import DecisionRow, HeadRow, ReleaseRow
from sync.chain import Link, stored_chain

DECISION: Final = "release.rebase"


def outdated(node: Node) -> list[tuple[Link, Link]]:
    """Own heads with the newer release of the place that they are pinned to, unless that was decided on before."""
    with node.store.read() as session:
        heads = {row.path: row.release for row in session.scalars(select(HeadRow))}
        own = list(session.scalars(select(ReleaseRow).where(ReleaseRow.own, ReleaseRow.digest.in_(heads.values()))))
        decisions = list(session.scalars(select(DecisionRow).where(DecisionRow.kind == DECISION)))
    bodies = [(row.subject, json.loads(row.body)) for row in decisions]
    decided = {(subject, body["above"]) for subject, body in bodies}
    learned = {(body.get("path"), body["above"]) for _, body in bodies}
    found = []
    ours = own_keys(node)
    for row in own:
        link = stored_chain(node.store, node.blobs, row.digest)[-1]
        pin = link.release.above
        if pin is None:
            found += _to_learn_of(node, link, heads, learned)
            continue
        newest = heads.get(pin.path)
        if newest is None or newest == pin.digest or (row.digest, newest) in decided:
            continue
        above = stored_chain(node.store, node.blobs, newest)[-1]
        if above.signer not in ours and above.release.version > pin.version:
            found.append((link, above))
    return found


def _to_learn_of(
    node: Node, own: Link, heads: dict[str, str], learned: set[tuple[str | None, str]]
) -> list[tuple[Link, Link]]:
    """A graft pins no release of its parent: the nearest one above it, unless it was decided on for this path."""
    places = [str(place) for place in NodePath.parse(own.release.path).chain()[:-1]]
    nearest = next((heads[place] for place in reversed(places) if place in heads), None)
    if nearest is None or (own.release.path, nearest) in learned:
        return []
    above = stored_chain(node.store, node.blobs, nearest)[-1]
    is_other = above.release.base != own.release.base and above.release.anchors is not None
    return [(own, above)] if is_other and above.signer not in own_keys(node) else []
