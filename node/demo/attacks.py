"""The lies of the demo, told by a node that is enrolled, and so may speak for its own path.

forged: an update in another child's name, signed with the liar's key. poisoned: a real adapter, trained on false
labels, offered as its own. replayed: the same adapter again, under a sequence number that was used before.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from node.context import Node, opened_node
from node.demo.processes import DemoNode
from node.offer import make_offer
from node.settings import load_settings
from registry.documents import AnyOffering, seal_document
from registry.errors import BanyanError
from registry.paths import NodePath
from sync.push import submit

REFUSED_STATES = ("rejected", "quarantined")


@dataclass(frozen=True, slots=True)
class Attack:
    """One lie and what became of it."""

    kind: Literal["forged", "poisoned", "replayed"]
    refused: bool
    reason: str


def forge(liar: DemoNode, url: str, path: str, victim: dict[str, Any]) -> Attack:
    """An update in the name of another child; `victim` is that child's own update, as `node updates show` tells it."""
    with opened_node(load_settings({"home": liar.home})) as node:
        named = {"path": victim["path"], "issuer": victim["issuer"]}
        forged = _own_update(node, path).model_copy(update=named)
        return Attack("forged", *_send(node, url, forged))


def poison(liar: DemoNode, path: str) -> str:
    """Offer the adapter that was trained on false labels, by the ordinary command; the digest of the update."""
    return str(liar.call("publish", path, accepts=(0, 5))["digest"])


def poison_outcome(update: dict[str, Any]) -> Attack:
    """What the parent decided about the poisoned update, as its `node updates show` tells it."""
    failed = [f"{check['name']}: {check['reason']}" for check in update["checks"] if not check["passed"]]
    return Attack("poisoned", update["state"] in REFUSED_STATES, "; ".join(failed) or update["state"])


def replay(liar: DemoNode, url: str, path: str) -> Attack:
    """A sequence number that was used before."""
    with opened_node(load_settings({"home": liar.home})) as node:
        return Attack("replayed", *_send(node, url, _own_update(node, path)))


def _own_update(node: Node, path: str) -> AnyOffering:
    return make_offer(node, NodePath.parse(path)).update(1, None, datetime.now(UTC), 30)


def _send(node: Node, url: str, update: AnyOffering) -> tuple[bool, str]:
    """Whether the parent refuses, and its reason."""
    try:
        where = submit(node.peer(url), seal_document(update, node.key), update.files, node.blobs)
    except BanyanError as refusal:
        return True, refusal.message
    return where.state in REFUSED_STATES, f"the parent calls it {where.state}"
