"""One round with the parent: send what waits for it, ask after what was sent, pull what it offers; and how it went.

Whether the parent is to be contacted at all now is decided first, by what is remembered of it (`sync.peers`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from node.context import Node, parent_of
from node.outbox import ask_after, send_waiting
from node.pull import Pulled, heads_here, offered, take
from registry.documents import ReleasePin
from registry.errors import BanyanError
from registry.tables import PeerRow, PeerStateRow
from sync.meter import Meter
from sync.peers import Allowance, meter_of, note_failure, note_offer, note_success, note_taken, peer_state, why_not_now

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What came of a round: updates that the parent took, releases that it offers; why there was none, what failed."""

    sent: Sequence[str] = ()
    pulled: Sequence[Pulled] = ()
    skipped: str = ""
    error: BanyanError | None = None

    @property
    def new(self) -> bool:
        """Whether something is served here now that was not."""
        return any(one.new for one in self.pulled)


def allowance_of(node: Node) -> Allowance:
    """What a peer may take, by the settings."""
    settings = node.settings
    return Allowance(
        bytes_per_day=settings.peer_bytes_per_day,
        requests_per_day=settings.peer_requests_per_day,
        round_s=settings.peer_round_s,
        longest_pause_s=settings.peer_backoff_max_s,
    )


def exchange(node: Node, now: datetime, chance: float, *, thorough: bool, insist: bool = False) -> Exchanged:
    """A round with the parent, within what it may take (S5); errors are part of the result.

    `thorough`: also ask after updates that were decided; `insist`: contact it although it failed a moment ago.
    Raises LocalFailure when this node has no parent.
    """
    parent, allowance = parent_of(node), allowance_of(node)
    with node.store.transaction() as session:
        state = peer_state(session, parent.key_id)
        if insist:
            state.retry = None
        if skipped := why_not_now(state, allowance, now):
            return Exchanged(skipped=skipped)
        meter = meter_of(state, allowance, now)
    at_work = replace(node, meter=meter)
    sent: list[str] = []
    offers: list[ReleasePin] = []
    pulled: list[Pulled] = []
    error: BanyanError | None = None
    try:
        sent += [row.digest for row in send_waiting(at_work, parent, now)]
        ask_after(at_work, parent, now, chance, thorough=thorough)
        if node.settings.follow_parent:
            offers = offered(at_work, now)
            pulled += take(at_work, offers, now)
    except BanyanError as caught:
        log.warning("%s: %s (%s)", parent.url, caught.message, caught.hint)
        error = caught
    _write_down(node, parent, meter, offers, error, chance, now)
    return Exchanged(sent, pulled, error=error)


def _write_down(
    node: Node,
    parent: PeerRow,
    meter: Meter,
    offers: Sequence[ReleasePin],
    error: BanyanError | None,
    chance: float,
    now: datetime,
) -> None:
    here = heads_here(node)
    behind = any(pin.path not in here or here[pin.path].digest != pin.digest for pin in offers)
    with node.store.transaction() as session:
        state = peer_state(session, parent.key_id)
        note_taken(state, meter, now)
        if offers:
            note_offer(state, {pin.path: pin.version for pin in offers}, behind=behind, now=now)
        if error is not None:
            note_failure(state, error, node.settings.peer_backoff_max_s, chance, now)
        else:
            note_success(state, now)


def note_listening(node: Node, hint: str, now: datetime) -> None:
    """Write down that the parent's hints are read, or no longer."""
    with node.store.transaction() as session:
        state: PeerStateRow = peer_state(session, parent_of(node).key_id)
        if hint == "open":
            state.listening = now
        elif hint == "closed":
            state.listening = None
