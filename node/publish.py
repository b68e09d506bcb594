"""Offer this node's own release of a path to its parent, as a signed update.

Without more words, the signed document (path, digests, sizes, evaluation figures) and the adapter leave this machine
and nothing else; prompts only when they were asked for, and after they were shown. The update is signed and stored,
with its sequence number, before the first byte goes; publishing again sends the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from node.answer_set import AnswerSet, make_answers
from node.context import Node
from node.datasets.files import Limits, examine
from node.learned import gained, learned_prompts
from node.memorised import memorised
from node.offer import Offer, Outgoing, make_offer
from node.outbox import READY, deliver, opened
from node.transfer import TransferSet, chosen_rows, make_transfer, training_prompts
from node.updates import outcome_of
from registry.documents import seal_document
from registry.errors import BadData, LocalFailure
from registry.paths import NodePath
from registry.store import select
from registry.tables import DecisionRow, SequenceRow, UpdateRow
from sync.fetch import OnProgress, no_progress


@dataclass(frozen=True, slots=True)
class PublishResult:
    """What was sent, and where it stands at the parent. `new` is false when it had been signed before."""

    digest: str
    sequence: int
    state: str
    reason: str
    sent: Outgoing
    new: bool


@dataclass(frozen=True, slots=True)
class _Wish:
    """Which rows are to travel."""

    file: Path | None
    prompts: int
    limits: Limits

    @property
    def key(self) -> str:
        """A text that is the same when the same is wished for. Raises BadData for a file that is none of rows."""
        if self.file is None:
            return f"prompts:{self.prompts}" if self.prompts else ""
        return f"file:{examine(self.file, self.limits).sha256}"


def publish(
    node: Node,
    path: NodePath,
    transfer: Path | None,
    transfer_rows: int,
    confirm: Callable[[Outgoing], bool],
    *,
    now: datetime,
    on_progress: OnProgress = no_progress,
    anew: bool = False,
) -> PublishResult:
    """Offer the head of `path`, a release of our own, to the parent (U8, U9); where it stands there.

    `transfer`: a file of rows whose prompts travel with it; `transfer_rows`: so many of the run's training prompts.
    Either travel with the model's own answers, never with the owner's. `confirm` is shown what will leave and asked
    once, before the update is signed; publishing the same again does not ask again. `anew` signs another update all
    the same, as after a rejection for a clock that was wrong.

    Raises LocalFailure when there is nothing to publish, the model gives away too much of its training rows, `confirm`
    says no or the parent does not answer in time,
    Refused when the parent does not listen to this node, BadData when the rows are not fit to travel. An update that
    fails the parent's checks is a result, not an error.
    """
    if transfer_rows < 0 or (transfer is not None and transfer_rows):
        raise BadData("either a transfer set or a number of training prompts travels", "leave one of them out")
    offer = make_offer(node, path)
    row, new = sign(node, offer, transfer, transfer_rows, confirm, now=now, anew=anew)
    return _send(node, offer, row, now, on_progress, new=new)


def sign(
    node: Node,
    offer: Offer,
    transfer: Path | None,
    transfer_rows: int,
    confirm: Callable[[Outgoing], bool],
    *,
    now: datetime,
    anew: bool = False,
) -> tuple[UpdateRow, bool]:
    """The signed update of an offer, stored to be sent, and whether it is new. Raises as `publish`, but for Refused."""
    wish = _Wish(transfer, transfer_rows, Limits(file_bytes=node.settings.max_update_bytes))
    about = {"release": offer.own.digest, "audience": offer.parent.key_id, "asked": wish.key}
    if not anew and (before := _signed_before(node, offer, about, now)) is not None:
        return before, False
    travelling = _travelling(node, offer, wish)
    return _sign(node, _measured(node, offer), about, travelling=travelling, confirm=confirm, now=now), True


def _signed_before(node: Node, offer: Offer, about: dict[str, str], now: datetime) -> UpdateRow | None:
    """The update that was signed for the same release, parent and rows, unless it expired on its way."""
    sent = select(UpdateRow).where(UpdateRow.direction == "out", UpdateRow.path == offer.own.release.path)
    with node.store.read() as session:
        rows = session.scalars(sent.order_by(UpdateRow.sequence.desc())).all()
    for row in rows:
        taken = row.verdict is not None and row.state != "rejected"
        if json.loads(row.detail) == about and (taken or now < opened(node, row).expires):
            return row
    return None


def _measured(node: Node, offer: Offer) -> Offer:
    """The offer with what has to be measured for it. Of a graft no adapter leaves: nothing can be sampled from it."""
    found = None if offer.is_graft else memorised(node, offer) if offer.run else gained(node, offer)
    return replace(offer, measured=(found,) if found else ())


def _travelling(node: Node, offer: Offer, wish: _Wish) -> TransferSet | AnswerSet | None:
    """The prompts that were chosen, with this node's own answers. Of a graft nothing else can travel (U14)."""
    if wish.file is None and not wish.prompts:
        if not offer.is_graft:
            return None
        raise LocalFailure(
            f"{offer.ref} has another base than the parent's {offer.above.path}: its weights mean nothing there; what "
            "it knows travels as answers to prompts, and none were chosen",
            f"node publish {offer.ref.path} --transfer-rows 500, or --transfer-set FILE",
        )
    if wish.file:
        rows = chosen_rows(wish.file, node)
    elif offer.run:
        rows = training_prompts(node, offer.run, wish.prompts)
    else:
        rows = learned_prompts(node, offer, wish.prompts)
    if offer.is_graft:
        return make_answers(node, offer.ref, offer.above, rows)
    return make_transfer(node, offer.ref, rows)


def _sign(
    node: Node,
    offer: Offer,
    about: dict[str, str],
    *,
    travelling: TransferSet | AnswerSet | None,
    confirm: Callable[[Outgoing], bool],
    now: datetime,
) -> UpdateRow:
    """Show, ask, then reserve the next number, sign and store in one transaction."""
    key_id, path, days = node.key.public.id, offer.own.release.path, node.settings.update_valid_days
    with node.store.read() as session:
        used = session.get(SequenceRow, (key_id, path))
    draft = offer.update(used.highest + 1 if used else 1, travelling, now, days)
    if not confirm(offer.outgoing(node, draft, len(seal_document(draft, node.key)))):
        raise LocalFailure("not confirmed: nothing was signed, nothing has left this machine", f"node publish {path}")
    with node.store.transaction() as session:
        used = session.get(SequenceRow, (key_id, path))
        if used is None:
            used = SequenceRow(issuer=key_id, path=path, highest=0)
            session.add(used)
        used.highest += 1
        envelope = seal_document(offer.update(used.highest, travelling, now, days), node.key)
        row = UpdateRow(
            digest=hashlib.sha256(envelope).hexdigest(),
            direction="out",
            issuer=key_id,
            path=path,
            sequence=used.highest,
            state=READY,
            envelope=envelope,
            detail=json.dumps(about),
            received=now,
            changed=now,
        )
        body = json.dumps({**about, "path": path, "sequence": used.highest})
        session.add_all([row, DecisionRow(at=now, kind="update.signed", subject=row.digest, body=body)])
    return row


def _send(
    node: Node, offer: Offer, row: UpdateRow, now: datetime, on_progress: OnProgress, *, new: bool
) -> PublishResult:
    try:
        kept = deliver(node, row, offer.parent, now, on_progress)
    except LocalFailure as error:
        raise LocalFailure(
            error.message, "the update is signed and stored: `node up` or `node sync once` sends it later"
        ) from error
    verdict = outcome_of(node, kept, offer.parent)
    return PublishResult(
        digest=row.digest,
        sequence=row.sequence,
        state=kept.state,
        reason=verdict.reason if verdict else "",
        sent=offer.outgoing(node, opened(node, row), len(row.envelope)),
        new=new,
    )
