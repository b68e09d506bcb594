"""The child's inbox: releases that came from its parent, each with this node's own verdict.

A parent is believed no more than a child: its release is served here, and what is own rebased on it, only after the
checks. What the checks look at is `node.arrivals`' and `sync.checks`'; fetching and proving is `sync.pull`'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime

from registry.documents import CheckResult, Verdict, open_document, seal_document
from registry.envelope import peek_payload
from registry.errors import LocalFailure
from registry.keys import PrivateKey
from registry.store import Session, Store, select
from registry.tables import ArrivalRow, DecisionRow
from sync.chain import Link
from sync.verdict import Outcome, failed, write_verdict

PERSON = "person"


def judge_release(results: Sequence[CheckResult]) -> Outcome:
    """Rejected where the files are not what they say, else quarantined where anything failed (Q2).

    A parent whose release is only worse than the last one is not a liar yet: its operator and ours should talk.
    """
    stages = {result.name.partition(".")[0] for result in failed(results)}
    if not stages:
        return "accepted"
    return "rejected" if "files" in stages else "quarantined"


def arrival(store: Store, digest: str) -> ArrivalRow | None:
    """What is known of a release that came."""
    with store.read() as session:
        return session.get(ArrivalRow, digest)


def arrivals(store: Store, *states: str) -> list[ArrivalRow]:
    """The releases that came and stand so, or all, the latest first."""
    wanted = select(ArrivalRow).order_by(ArrivalRow.changed.desc(), ArrivalRow.digest)
    with store.read() as session:
        return list(session.scalars(wanted.where(ArrivalRow.state.in_(states)) if states else wanted))


def earlier_norms(store: Store, path: str, limit: int) -> list[dict[str, float]]:
    """The norms of the releases of a path that were accepted before, the latest first."""
    wanted = select(ArrivalRow.norms).where(
        ArrivalRow.path == path, ArrivalRow.state == "accepted", ArrivalRow.norms.is_not(None)
    )
    with store.read() as session:
        rows = session.scalars(wanted.order_by(ArrivalRow.version.desc()).limit(limit))
        return [dict(json.loads(text)) for text in rows if text is not None]


def settle_arrival(
    link: Link,
    results: Sequence[CheckResult],
    norms: dict[str, float] | None,
    key: PrivateKey,
    now: datetime,
) -> Callable[[Session], bool]:
    """What writes the verdict on a release down, in the transaction that makes it visible or does not (Q1, V7)."""

    def settle(session: Session) -> bool:
        known = session.get(ArrivalRow, link.digest)
        if known is not None:  # another process was quicker, or a person has decided
            return known.state == "accepted"
        verdict = write_verdict(link.digest, judge_release(results), results, now)
        row = ArrivalRow(
            digest=link.digest,
            path=link.release.path,
            version=link.release.version,
            signer=link.signer.id,
            state=verdict.outcome,
            envelope=link.envelope,
            verdict=seal_document(verdict, key),
            norms=json.dumps(norms, allow_nan=False) if norms is not None else None,
            received=now,
            changed=now,
        )
        session.add(row)
        _record(session, row, verdict, now)
        return verdict.outcome == "accepted"

    return settle


def decide_again(
    store: Store, digest: str, outcome: Outcome, check: CheckResult, key: PrivateKey, now: datetime
) -> None:
    """A person's decision (Q3): a new verdict with it is signed; an accepted release is served after the next pull.

    Raises LocalFailure where there is nothing to decide: only what is quarantined waits for a person.
    """
    with store.transaction() as session:
        row = session.get(ArrivalRow, digest)
        if row is None or row.state != "quarantined":
            state = row.state if row else "unknown"
            raise LocalFailure(f"the release {digest[:16]} is {state}: nothing waits for a decision", "node updates in")
        verdict = write_verdict(digest, outcome, [*verdict_on(row, key).checks, check], now)
        row.state, row.verdict, row.changed = outcome, seal_document(verdict, key), now
        _record(session, row, verdict, now)


def verdict_on(row: ArrivalRow, key: PrivateKey) -> Verdict:
    """The verdict, verified."""
    return open_document(row.verdict, Verdict, [key.public])[0]


def reason_of(row: ArrivalRow) -> str:
    """Why a release has its state, as it was written."""
    return Verdict.from_bytes(peek_payload(row.verdict)).reason


def _record(session: Session, row: ArrivalRow, verdict: Verdict, now: datetime) -> None:
    body = {"path": row.path, "version": row.version, "verdict": verdict.model_dump(mode="json")}
    text = json.dumps(body, allow_nan=False, ensure_ascii=False)
    session.add(DecisionRow(at=now, kind=f"release.{row.state}", subject=row.digest, body=text))
