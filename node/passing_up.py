"""A node in the middle of the tree offers what it merged to its own parent, where its operator lets it.

Without that knowledge from below would stop at every node until somebody publishes by hand. It is off by default: what
leaves is the merged adapter, and as many prompts as `pass_up_rows` says, of those that were let travel already.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Final

from node.context import Node
from node.learned import beyond
from node.logs import tried_again
from node.offer import Offer, make_offer
from node.outbox import opened
from node.publish import sign
from registry.paths import NodePath
from registry.store import select
from registry.tables import HeadRow, ReleaseRow, UpdateRow

log = logging.getLogger(__name__)

REMEMBERED: Final = 20  # updates of a path: who goes back to an older release than that offers it again


def pass_up(node: Node, now: datetime) -> list[str]:
    """Sign an update of every merged release that the parent was not offered (U15); the next exchange sends it."""
    if not (node.settings.pass_up and node.settings.parent_url):
        return []
    signed = []
    for path in _own_heads(node):
        with tried_again(f"offering {path} to the parent"):
            offer = make_offer(node, path)
            if offer.run is not None or offer.record in _offered(node, offer):
                continue
            rows = min(node.settings.pass_up_rows, len(beyond(node, offer)))
            if offer.is_graft and not rows:
                log.info("%s has another base than the parent: without pass_up_rows nothing of it can go up", path)
                continue
            signed.append(sign(node, offer, None, rows, lambda leaving: True, now=now)[0].digest)
            log.info("%s is offered to the parent, with %d prompts", offer.ref, rows)
    return signed


def _own_heads(node: Node) -> list[NodePath]:
    """The places at which this node serves its own work over something of the parent's."""
    heads = select(ReleaseRow.path).join(HeadRow, HeadRow.release == ReleaseRow.digest)
    with node.store.read() as session:
        paths = session.scalars(heads.where(ReleaseRow.own, ReleaseRow.adapter.is_not(None)).order_by(ReleaseRow.path))
        return [NodePath.parse(path) for path in paths]


def _offered(node: Node, offer: Offer) -> set[str]:
    """The records of what this parent was offered of the path lately."""
    sent = select(UpdateRow).where(UpdateRow.direction == "out", UpdateRow.path == offer.own.release.path)
    with node.store.read() as session:
        rows = session.scalars(sent.order_by(UpdateRow.sequence.desc()).limit(REMEMBERED))
        updates = [opened(node, row) for row in rows]
    return {update.run for update in updates if update.audience == offer.parent.key_id}
