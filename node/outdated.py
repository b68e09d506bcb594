"""Which own releases stand on a release of the parent that has a successor.

Apart from `node.rebasing`, so that a pull that has nothing to rebase loads nothing that computes.
"""

from __future__ import annotations

import json
from typing import Final

from node.context import Node
from registry.store import select
from registry.tables import DecisionRow, HeadRow, ReleaseRow
from sync.chain import Link, stored_chain

DECISION: Final = "release.rebase"


def outdated(node: Node) -> list[tuple[Link, Link]]:
    """Own heads with the newer release of the place that they are pinned to, unless that was decided on before."""
    with node.store.read() as session:
        heads = {row.path: row.release for row in session.scalars(select(HeadRow))}
        own = list(session.scalars(select(ReleaseRow).where(ReleaseRow.own, ReleaseRow.digest.in_(heads.values()))))
        decided = {
            (row.subject, json.loads(row.body)["above"])
            for row in session.scalars(select(DecisionRow).where(DecisionRow.kind == DECISION))
        }
    found = []
    for row in own:
        link = stored_chain(node.store, node.blobs, row.digest)[-1]
        pin = link.release.above
        newest = heads.get(pin.path) if pin else None
        if pin is None or newest is None or newest == pin.digest or (row.digest, newest) in decided:
            continue
        above = stored_chain(node.store, node.blobs, newest)[-1]
        if above.signer.id != node.key.public.id and above.release.version > pin.version:
            found.append((link, above))
    return found
