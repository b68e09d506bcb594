"""What an honest node asks of others: a round with its parent, and a look at the parent's log.

As `node.exchange` and `node.watched_logs` do it: updates that wait are sent, sent ones asked after, what the parent
lists is proven, fetched and judged; and whether the parent is to be asked now is said by what is remembered of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from registry.documents import Adapter, CheckResult, ReleasePin, Update, Verdict, open_document
from registry.errors import BadData, BanyanError
from registry.keys import PublicKey
from registry.log.checkpoint import Standing, open_checkpoint
from registry.log.merkle import Proof
from registry.paths import NodePath
from registry.store import Session, select
from registry.tables import ArrivalRow, PeerStateRow, ReleaseRow, UpdateRow
from registry.trust.client import Client, begin, in_our_words
from registry.trust.files import locked
from simulations.member import ALLOWANCE, Member, Parent, heads_in
from sync import push
from sync.arrivals import settle_arrival
from sync.chain import Link
from sync.peer_log import fetch_checkpoint, fetch_consistency, show_checkpoint
from sync.peers import note_failure, note_offer, note_success, peer_state, why_not_now
from sync.pull import Judge, fetch_release
from sync.seen_logs import Seen, held, see, settle
from sync.transport import Peer, Refused
from sync.tuf_fetcher import PeerFetcher
from sync.uploads import files_of

log = logging.getLogger(__name__)

READY: Final = "ready"
TO_SEND: Final = (READY, "received")
OPEN: Final = (*TO_SEND, "verified", "checked")
METADATA: Final = "/v1/tuf/metadata"
_WAITING: Final = (
    select(UpdateRow).where(UpdateRow.direction == "out", UpdateRow.state.in_(OPEN)).order_by(UpdateRow.sequence)
)


@dataclass(frozen=True, slots=True)
class Round:
    """What came of a round: what was sent, what is served since, what was refused, why there was none."""

    sent: Sequence[str] = ()
    pulled: Sequence[ReleasePin] = ()
    refused: Sequence[BanyanError] = ()
    skipped: str = ""


@dataclass(slots=True)
class _Going:
    """A round under way."""

    member: Member
    parent: Parent
    peer: Peer
    waiting: Sequence[UpdateRow]
    here: Mapping[str, ReleaseRow]
    sent: list[str] = field(default_factory=list)
    offers: list[ReleasePin] = field(default_factory=list)
    pulled: list[ReleasePin] = field(default_factory=list)
    refused: list[BanyanError] = field(default_factory=list)


def exchange(member: Member, parent: Parent, chance: float) -> Round:
    """A round with the parent; errors are part of the result."""
    with member.store.read() as session:
        state = session.get(PeerStateRow, parent.key.id)
        if state is not None and (skipped := why_not_now(state, ALLOWANCE, member.watch.now())):
            return Round(skipped=skipped)
        waiting, here = list(session.scalars(_WAITING)), heads_in(session)
    going = _Going(member, parent, member.peer(parent.host), waiting, here)
    try:
        _send_and_ask(going)
        _follow(going)
    except BanyanError as error:
        going.refused.append(error)
    _write_down(going, chance)
    return Round(going.sent, going.pulled, going.refused)


def _write_down(going: _Going, chance: float) -> None:
    member, now = going.member, going.member.watch.now()
    with member.store.transaction() as session:
        state = peer_state(session, going.parent.key.id)
        if going.offers:
            behind = len(going.pulled) < len(going.offers)
            note_offer(state, {pin.path: pin.version for pin in going.offers}, behind=behind, now=now)
        if going.refused:
            note_failure(state, going.refused[-1], ALLOWANCE.longest_pause_s, chance, now)
        else:
            note_success(state, now)


# Updates


def _send_and_ask(going: _Going) -> None:
    """Send what the parent does not have whole (S6), ask after the rest; one refusal does not keep the others."""
    member, now = going.member, going.member.watch.now()
    for row in going.waiting:
        update, _ = open_document(row.envelope, Update, [member.key.public])
        if row.state == READY and update.expires <= now:
            _keep(going, row, push.Standing(state="expired", verdict=None, missing=()))
            continue
        try:
            where = _deliver(going, row, update)
        except Refused as refusal:
            going.refused.append(refusal)
            continue
        _keep(going, row, where)
        if row.state in TO_SEND:
            going.sent.append(row.digest)


def _deliver(going: _Going, row: UpdateRow, update: Update) -> push.Standing:
    if row.state not in TO_SEND:
        return push.standing(going.peer, row.digest)
    try:
        return push.submit(going.peer, row.envelope, files_of(update), going.member.blobs)
    except Refused as refusal:
        if not refusal.code.startswith("check_"):
            raise
        return push.standing(going.peer, row.digest)


def _keep(going: _Going, row: UpdateRow, where: push.Standing) -> None:
    """Store what the parent says of an update; its verdict is believed if it signed it on that update (V8)."""
    envelope = where.verdict.encode("ascii", "replace") if where.verdict is not None else None
    if envelope is not None:
        verdict, _ = open_document(envelope, Verdict, [going.parent.key])
        if verdict.update != row.digest:
            raise BadData(f"the verdict is on another update: {verdict.update}", "tell the parent's operator")
    if (row.state, row.verdict) == (where.state, envelope):
        return
    with going.member.store.transaction() as session:
        kept = session.get_one(UpdateRow, row.digest)
        kept.state, kept.verdict, kept.changed = where.state, envelope, going.member.watch.now()


# Releases


def _follow(going: _Going) -> None:
    """Fetch what the parent lists at and above our place (F2); one that cannot be proven does not keep the others."""
    member, here = going.member, going.here
    going.offers = _offered(going, {path for path, row in here.items() if row.own})
    news = [pin for pin in going.offers if pin.path not in here or here[pin.path].digest != pin.digest]
    settled = _settled(member, news)
    for pin in news:
        if settled.get(pin.digest, "accepted") != "accepted":
            continue
        try:
            _fetch(going, pin)
        except BadData as error:
            going.refused.append(error)
            continue
        going.pulled.append(pin)
        member.is_published = False


def _settled(member: Member, pins: Sequence[ReleasePin]) -> dict[str, str]:
    """The states of those that came before, by digest."""
    if not pins:
        return {}
    wanted = select(ArrivalRow.digest, ArrivalRow.state).where(ArrivalRow.digest.in_([pin.digest for pin in pins]))
    with member.store.read() as session:
        return {row.digest: row.state for row in session.execute(wanted)}


def _fetch(going: _Going, pin: ReleasePin) -> None:
    member, now = going.member, going.member.watch.now()
    fetch_release(
        going.peer,
        pin,
        trusted=member.trusted,
        vouched=frozenset({pin.digest}) if member.is_parents(NodePath.parse(pin.path)) else frozenset(),
        store=member.store,
        blobs=member.blobs,
        now=now,
        judge=_judge(member),
    )


def _judge(member: Member) -> Judge:
    """The files of what is new are checked as always; how the weights behave is taken to be right."""

    def judge(chain: list[Link]) -> Callable[[Session], bool]:
        digests = [link.digest for link in chain]
        with member.store.read() as session:
            known = set(session.scalars(select(ReleaseRow.digest).where(ReleaseRow.digest.in_(digests))))
        new = [link for link in chain if link.digest not in known]
        results = [
            result
            for link in new
            if link.release.adapter is not None
            for result in _checked(member, link.release.adapter)
        ]
        return settle_arrival(chain[-1], results, None, member.key, member.watch.now())

    return judge


def _checked(member: Member, adapter: Adapter) -> list[CheckResult]:
    return member.check_adapter(member.blobs.path(adapter.file.sha256), adapter)


def _offered(going: _Going, own: set[str]) -> list[ReleasePin]:
    """The heads that the parent's repository lists at or above our place, ours aside, the top of the tree first."""
    member, peer = going.member, going.peer
    folder = member.home.trusted / going.parent.key.id
    with locked(folder), in_our_words(f"the releases of {peer.url}"):
        begin(folder, f"{peer.url}{METADATA}", PeerFetcher(peer), going.parent.key)
        client = Client(folder, f"{peer.url}{METADATA}", PeerFetcher(peer), now=member.watch.now())
        client.refresh()
    heads: dict[str, ReleasePin] = {}
    for name, target in client.targets.items():
        path, _, version = name.rpartition("/v")
        pin = ReleasePin(path=path, version=int(version), digest=target.hashes["sha256"])
        if pin.path not in heads or heads[pin.path].version < pin.version:
            heads[pin.path] = pin
    near = [pin for path, pin in heads.items() if path not in own and member.place.is_within(NodePath.parse(path))]
    return sorted(near, key=lambda pin: NodePath.parse(pin.path))


# Logs


def watch_logs(member: Member, parent: Parent) -> Standing:
    """Compare the parent's checkpoint with what was seen of its log, here and by the other nodes (L10, L11)."""
    key, peer, now = parent.key, member.peer(parent.host), member.watch.now()
    prove = _proved_by(peer)
    try:
        checkpoint, note = fetch_checkpoint(peer, key)
        with member.store.transaction() as session:
            see(session, Seen(key, checkpoint, note, peer.url), now, may_be_first=True)
    except BanyanError as error:
        log.info("%s: %s", peer.url, error.message)
    standing = settle(member.store, key, prove, now)
    for host in member.log_peers:
        try:
            _compare_with(member, key, host)
        except BanyanError as error:
            log.info("%s: %s", host, error.message)
    return settle(member.store, key, prove, now) if member.log_peers else standing


def _compare_with(member: Member, key: PublicKey, host: str) -> None:
    with member.store.read() as session:
        mine = held(session, key.id)
    theirs = show_checkpoint(member.peer(host), mine.note) if mine is not None else None
    if theirs is not None:
        checkpoint, kept = open_checkpoint(theirs, key)
        with member.store.transaction() as session:
            see(session, Seen(key, checkpoint, kept, host), member.watch.now(), may_be_first=False)


def _proved_by(peer: Peer) -> Callable[[int, int], Proof | None]:
    def prove(first: int, second: int) -> Proof | None:
        try:
            return fetch_consistency(peer, first, second)
        except BanyanError:
            return None

    return prove
