"""Updates on their way to the parent: sent when it can be reached, and asked after until nothing more can change.

An update is signed, with the consent of the owner, by `node.publish`; here the same bytes go out, as often as it takes.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from node.context import Node
from node.former_keys import own_keys
from node.updates import keep_standing
from registry.documents import AnyOffering, open_offering
from registry.store import select
from registry.tables import PeerRow, UpdateRow
from sync.fetch import OnProgress, no_progress
from sync.push import standing, submit
from sync.transport import Refused

log = logging.getLogger(__name__)

READY: Final = "ready"  # signed and stored; the parent has not answered yet
EXPIRED: Final = "expired"  # before the parent had it: it is to be published again
TO_SEND: Final = (READY, "received")  # the files of one that was received may not all be there
CHECKED_SOON: Final = ("verified", "checked")
SETTLED: Final = (
    "accepted",
    "quarantined",
    "aggregated",
    "gated",
    "released",
    "announced",
)  # may change again, but seldom
MAX_ASKED: Final = 20  # of those, in one round


def deliver(
    node: Node, row: UpdateRow, parent: PeerRow, now: datetime, on_progress: OnProgress = no_progress
) -> UpdateRow:
    """Send an update, or what of it is not there; how it then stands.

    Raises as `submit` does. An update that fails the parent's first checks is an answer, not an error.
    """
    update, peer = opened(node, row), node.peer(parent.url)
    try:
        where = submit(peer, row.envelope, update.files, node.blobs, on_progress)
    except Refused as refusal:
        if not refusal.code.startswith("check_"):
            raise
        where = standing(peer, row.digest)
    return keep_standing(node, row.digest, where, parent, now)


def send_waiting(node: Node, parent: PeerRow, now: datetime) -> list[UpdateRow]:
    """Send every update that the parent does not have whole (S6), the oldest first; those that it took.

    One that it refuses stays and does not keep the others. Raises LocalFailure when the parent does not answer.
    """
    sent = []
    for row in updates_out(node, TO_SEND):
        update = opened(node, row)
        if update.audience != parent.key_id:
            continue  # it was for an earlier parent
        if row.state == READY and update.expires <= now:
            _expire(node, row, now)
            continue
        try:
            after = deliver(node, row, parent, now)
        except Refused as refusal:
            log.warning("update %s of %s: %s", row.digest[:16], row.path, refusal.message)
            continue
        if after.state != row.state:
            sent.append(after)
            log.info("update %s of %s is %s at the parent", row.digest[:16], row.path, after.state)
    return sent


def ask_after(node: Node, parent: PeerRow, now: datetime, chance: float, *, thorough: bool) -> None:
    """Learn how sent updates stand; `thorough`: also some of those that were decided and may be decided again."""
    rows = updates_out(node, CHECKED_SOON)
    if thorough:
        settled = updates_out(node, SETTLED)
        some = random.Random(chance)  # noqa: S311  which are asked after first is no secret
        rows += some.sample(settled, min(MAX_ASKED, len(settled)))
    for row in rows:
        try:
            keep_standing(node, row.digest, standing(node.peer(parent.url), row.digest), parent, now)
        except Refused as refusal:  # such as one that an earlier parent had
            log.info("update %s of %s: %s", row.digest[:16], row.path, refusal.message)


def updates_out(node: Node, states: Sequence[str]) -> list[UpdateRow]:
    """The updates that were signed here and stand so, the oldest first."""
    wanted = select(UpdateRow).where(UpdateRow.direction == "out", UpdateRow.state.in_(states))
    with node.store.read() as session:
        return list(session.scalars(wanted.order_by(UpdateRow.received, UpdateRow.digest)))


def opened(node: Node, row: UpdateRow) -> AnyOffering:
    """What was signed."""
    return open_offering(row.envelope, own_keys(node))[0]


def _expire(node: Node, row: UpdateRow, now: datetime) -> None:
    log.warning("update %s of %s expired before the parent had it: publish it again", row.digest[:16], row.path)
    with node.store.transaction() as session:
        found = session.get(UpdateRow, row.digest)
        if found is not None and found.state == READY:
            found.state, found.changed = EXPIRED, now
