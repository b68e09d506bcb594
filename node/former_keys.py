"""The keys that this node and its parent had before: what they signed then is still theirs.

Each change is a decision, written in the transaction that makes it. For anything new the present key alone counts.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Final, Literal

from node.context import Node
from registry.keys import PublicKey
from registry.store import select
from registry.tables import DecisionRow, PeerRow

Whose = Literal["key.changed", "parent.key-changed"]
OWN: Final[Whose] = "key.changed"
PARENT: Final[Whose] = "parent.key-changed"


def own_keys(node: Node) -> list[PublicKey]:
    """The key of this node, then those that it had before."""
    return [node.key.public, *_former(node, OWN)]


def parent_keys(node: Node, parent: PeerRow) -> list[PublicKey]:
    """The pinned key of the parent, then those that were pinned before."""
    return [PublicKey.from_hex(parent.public_key), *_former(node, PARENT)]


def key_change(whose: Whose, old: PublicKey, new: PublicKey, now: datetime) -> DecisionRow:
    """The decision that another key has taken the place of one."""
    return DecisionRow(at=now, kind=whose, subject=new.id, body=json.dumps({"former": old.hex}))


def _former(node: Node, whose: Whose) -> list[PublicKey]:
    with node.store.read() as session:
        bodies = session.scalars(select(DecisionRow.body).where(DecisionRow.kind == whose)).all()
    return [PublicKey.from_hex(json.loads(body)["former"]) for body in bodies]
