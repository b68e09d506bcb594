"""A person's decision about an update or release that came in: to accept what was held back, or to reject it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from node.context import Node
from node.updates import UpdateDetail, show_update
from registry.documents import CheckResult
from registry.errors import BadData
from sync.arrivals import decide_again
from sync.inbox import Identity, settle
from sync.review import PERSON


def decide(
    node: Node, digest: str, outcome: Literal["accepted", "rejected"], reason: str, now: datetime
) -> UpdateDetail:
    """Settle an update by its digest or the beginning of it (V6, Q3); the verdict is signed anew with the reason in it.

    Raises BadData for an update that was sent from here or a reason that says nothing, LocalFailure where the
    update's state leaves nothing to decide.
    """
    if not reason.strip():
        raise BadData("a decision needs its reason", "--why 'the reason'")
    found = show_update(node, digest, now)
    if found.summary.direction != "in":
        raise BadData(f"update {found.summary.digest} was sent from here; its receiver decides", "node updates in")
    check = CheckResult(
        name=PERSON, value=None, threshold=None, passed=outcome == "accepted", reason=reason.strip(), cost_ms=0.0
    )
    if found.summary.kind == "release":
        decide_again(node.store, found.summary.digest, outcome, check, node.key, now)
        return show_update(node, found.summary.digest, now)
    settle(node.store, found.summary.digest, outcome, check, Identity(node.key, node.paths), now)
    return show_update(node, found.summary.digest, now)
