"""The states of an update that came in, the arrows between them, and the writing down of every arrow.

    received → verified → checked → accepted | quarantined | rejected
    accepted → aggregated → gated → released → announced
    released | announced → undone

The arrows up to the verdict are moved by `sync.inbox` and `sync.review`; the later ones, with `mark`, by whoever makes
a release, in the transaction that makes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal, cast

from registry.documents import AnyOffering, CheckResult, Verdict, open_offering, seal_document
from registry.envelope import peek_payload
from registry.errors import BadData, LocalFailure
from registry.fields import Part
from registry.keys import PrivateKey, PublicKey
from registry.log.entry import DecidedBy, Kind, log_entry
from registry.log.leaves import append
from registry.store import Session, Store, select
from registry.tables import DecisionRow, EnrolmentRow, UpdateRow
from sync.checks.version import checker_version

State = Literal[
    "received",
    "verified",
    "checked",
    "accepted",
    "quarantined",
    "rejected",
    "aggregated",
    "gated",
    "released",
    "announced",
    "undone",
]
Arrows = Mapping[State, frozenset[State]]

UNDECIDED: Final[tuple[State, ...]] = ("received", "verified", "checked")

# One arrow goes back: a file that was found damaged is sent again.
CHECKING: Final[Arrows] = {
    "received": frozenset({"verified", "rejected"}),
    "verified": frozenset({"checked", "received"}),
    "checked": frozenset({"accepted", "quarantined", "rejected"}),
    "quarantined": frozenset({"accepted", "rejected"}),  # a person decides
    "accepted": frozenset({"quarantined", "rejected"}),  # a person decides otherwise
    "aggregated": frozenset({"quarantined", "rejected"}),  # the gate finds the culprit
    "gated": frozenset({"quarantined", "rejected"}),
}
# Moved by `mark`. A candidate that comes to nothing gives its updates back; one that a kill ended is made again.
RELEASING: Final[Arrows] = {
    "accepted": frozenset({"aggregated"}),
    "aggregated": frozenset({"gated", "accepted"}),
    "gated": frozenset({"released", "accepted", "aggregated"}),
    "released": frozenset({"announced"}),
}
LOGGED: Final[Mapping[str, Kind]] = {
    "accepted": "update.accepted",
    "quarantined": "update.quarantined",
    "rejected": "update.rejected",
}
# The release that an update went into was rolled back. The same update does not come back; what it taught may, anew.
UNDOING: Final[Arrows] = {"released": frozenset({"undone"}), "announced": frozenset({"undone"})}


class UnknownUpdate(BadData):
    """No such update came in here."""


class Detail(Part):
    """What `UpdateRow.detail` of an update that came in holds: the results so far, until the verdict holds them."""

    checks: tuple[CheckResult, ...] = ()


def mark(
    session: Session, digest: str, state: State, now: datetime, *, release: str | None = None, reason: str = ""
) -> None:
    """Move an accepted update on its way into a release, or give it back (`accepted`) when the candidate failed.

    Runs in the caller's transaction, so that a release and the updates in it change together. `release` is the digest
    of the release that the update went into. An update that is there already stays as it is. Raises UnknownUpdate, and
    LocalFailure where the update is in another state than it should be.
    """
    row = update_row(session, digest)
    if row.state == state:
        return
    if release is not None:
        row.release = release
    move(session, row, RELEASING, state, now, release=release, reason=reason)


def accepted(store: Store) -> list[UpdateRow]:
    """The accepted updates that no candidate has taken yet, first accepted first; `changed` is when that was."""
    return _in_states(store, ("accepted",))


def undecided(store: Store) -> list[UpdateRow]:
    """The updates that wait for their files or for `sync.review.advance`, the longest waiting first."""
    return _in_states(store, UNDECIDED)


def unfinished(store: Store) -> list[UpdateRow]:
    """The updates of a candidate that is being made, or that a kill ended before its release."""
    return _in_states(store, ("aggregated", "gated"))


def verdict_of(store: Store, digest: str) -> bytes | None:
    """The signed verdict on an update, None while there is none; raises UnknownUpdate."""
    with store.read() as session:
        return update_row(session, digest).verdict


def _in_states(store: Store, states: tuple[State, ...]) -> list[UpdateRow]:
    with store.read() as session:
        rows = select(UpdateRow).where(UpdateRow.direction == "in", UpdateRow.state.in_(states))
        return list(session.scalars(rows.order_by(UpdateRow.changed, UpdateRow.digest)))


# What the arrows are made of


def update_row(session: Session, digest: str) -> UpdateRow:
    """The row of an update that came in; raises UnknownUpdate."""
    row = session.get(UpdateRow, digest)
    if row is None or row.direction != "in":
        raise _unknown(digest)
    return row


def _unknown(digest: str) -> UnknownUpdate:
    return UnknownUpdate(f"no update {digest!a:.80} came in here", "node updates")


def load_update(store: Store, digest: str) -> tuple[UpdateRow, AnyOffering]:
    """The row of an update that came in and what was signed, verified again; raises UnknownUpdate."""
    wanted = select(UpdateRow, EnrolmentRow.public_key).outerjoin(EnrolmentRow, EnrolmentRow.key_id == UpdateRow.issuer)
    with store.read() as session:
        found = session.execute(wanted.where(UpdateRow.digest == digest, UpdateRow.direction == "in")).first()
    if found is None:
        raise _unknown(digest)
    row, issuer = found
    if issuer is None:
        raise LocalFailure(f"the key of the issuer of update {digest} is gone from the database", "node doctor")
    return row, open_offering(row.envelope, [PublicKey.from_hex(issuer)])[0]


def state_of(row: UpdateRow) -> State:
    """The state of an update that came in."""
    return cast(State, row.state)


def results_of(row: UpdateRow) -> tuple[CheckResult, ...]:
    """The results of the checks so far."""
    if row.verdict is not None:
        return Verdict.from_bytes(peek_payload(row.verdict)).checks
    return Detail.model_validate_json(row.detail).checks


def keep_results(row: UpdateRow, results: Sequence[CheckResult]) -> None:
    """Keep results until the verdict."""
    row.detail = Detail(checks=tuple(results)).model_dump_json()


def arrow(store: Store, seen: UpdateRow, act: Callable[[Session, UpdateRow], None]) -> State:
    """Act on an update in one transaction, unless another process moved it since it was seen (V7).

    Returns its state.
    """
    with store.transaction() as session:
        row = update_row(session, seen.digest)
        if row.state == seen.state:
            act(session, row)
        return state_of(row)


def move(session: Session, row: UpdateRow, arrows: Arrows, state: State, now: datetime, **facts: object) -> None:
    """Move one arrow and write the decision down with its facts (JSON values); raises LocalFailure for no arrow."""
    before = state_of(row)
    if state not in arrows.get(before, ()):
        raise LocalFailure(f"update {row.digest} is {before} and cannot become {state} here", "node updates")
    row.state, row.changed = state, now
    record(session, row, now, before=before, **facts)


def conclude(session: Session, row: UpdateRow, verdict: Verdict, key: PrivateKey, by: DecidedBy = "node") -> None:
    """Move an update to its verdict, signed, with a leaf of the log (L1)."""
    row.verdict = seal_document(verdict, key)
    row.detail = Detail().model_dump_json()
    move(session, row, CHECKING, verdict.outcome, verdict.created, verdict=verdict.model_dump(mode="json"))
    entry = log_entry(
        LOGGED[verdict.outcome],
        row.digest,
        verdict.created,
        by=by,
        document=row.verdict,
        checks=verdict.checks,
        checker=checker_version(),
    )
    append(session, entry)


def record(session: Session, row: UpdateRow, now: datetime, **facts: object) -> None:
    """Append the decision that put an update into its state (V7)."""
    about = {"issuer": row.issuer, "path": row.path, "sequence": row.sequence}
    body = json.dumps({**about, **facts}, allow_nan=False, ensure_ascii=False)
    session.add(DecisionRow(at=now, kind=f"update.{row.state}", subject=row.digest, body=body))
