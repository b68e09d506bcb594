"""Updates on their way from received to a verdict, one arrow at a time.

What takes long is done outside the transactions; an arrow that another process moved meanwhile is left to it. What
the checks look at is left to `sync.checks`, which the caller passes in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from registry.blobs import BlobStore
from registry.documents import AnyOffering, CheckResult, seal_document
from registry.errors import BadData, BanyanError, LocalFailure
from registry.log.entry import log_entry
from registry.log.leaves import append
from registry.paths import NodePath
from registry.store import Session, Store
from registry.tables import UpdateRow
from sync.enrolled import Identity, NotEnrolled, speaker
from sync.lifecycle import (
    CHECKING,
    UNDOING,
    State,
    arrow,
    conclude,
    keep_results,
    load_update,
    move,
    results_of,
    state_of,
    update_row,
)
from sync.uploads import files_of, is_here
from sync.verdict import Outcome, failure, judge, write_verdict

log = logging.getLogger(__name__)

# What was offered, its file (an adapter, or answers), its transfer file.
Checks = Callable[[AnyOffering, Path, Path | None], Sequence[CheckResult]]

PERSON: Final = "person"  # the name of the check that a person's decision is
UPLOAD_TIME: Final = timedelta(days=2)  # a place among the updates that wait is not held for ever


@dataclass(frozen=True, slots=True)
class _Step:
    """One update as it was seen, and what moving it needs."""

    store: Store
    blobs: BlobStore
    row: UpdateRow
    update: AnyOffering
    own: Identity
    now: datetime


def advance(store: Store, blobs: BlobStore, digest: str, checks: Checks, own: Identity, now: datetime) -> State:
    """Move an update by one arrow towards its verdict; returns its state, unchanged when there is nothing to do.

    `checks` may take its time. A BadData that it raises rejects the update; a mistake in it quarantines the update, so
    that one update cannot stop the daemon; LocalFailure, OSError and MemoryError pass, and the arrow can be tried
    again. Raises UnknownUpdate.
    """
    row, update = load_update(store, digest)
    step = _Step(store, blobs, row, update, own, now)
    match state_of(row):
        case "received":
            return _forget_if_rejected(step, _verify(step))
        case "verified":
            return _check(step, checks)
        case "checked":
            return _decide(step)
        case state:
            return state


def settle(store: Store, digest: str, outcome: Outcome, check: CheckResult, own: Identity, now: datetime) -> State:
    """Decide again, by a person or by the gate: `check` says why, and a new verdict with it is signed.

    An update that is there already stays as it is. Raises UnknownUpdate, and LocalFailure where its state does not
    allow the outcome.
    """
    row, _ = load_update(store, digest)
    return arrow(store, row, lambda session, row: conclude_again(session, row.digest, outcome, check, own, now))


def conclude_again(
    session: Session, digest: str, outcome: Outcome, check: CheckResult, own: Identity, now: datetime
) -> None:
    """The same in the caller's transaction."""
    row = update_row(session, digest)
    if row.state != outcome:
        verdict = write_verdict(digest, outcome, [*results_of(row), check], now)
        conclude(session, row, verdict, own.key, by="person" if check.name == PERSON else "node")


def undo(session: Session, digest: str, check: CheckResult, own: Identity, now: datetime) -> None:
    """The release of an update was rolled back (V9): `check` says why, and a verdict with it is signed, rejecting it.

    Runs in the caller's transaction. Raises UnknownUpdate, and LocalFailure where no release holds the update.
    """
    row = update_row(session, digest)
    verdict = write_verdict(digest, "rejected", [*results_of(row), check], now)
    row.verdict = seal_document(verdict, own.key)
    move(session, row, UNDOING, "undone", now, verdict=verdict.model_dump(mode="json"))
    append(session, log_entry("update.rejected", row.digest, now, by="person", document=row.verdict))


def _verify(step: _Step) -> State:
    """To verified once every file is here (U11); to rejected if they do not come in time or are others."""
    problem = _problem_of_files(step)
    if problem is None:
        return state_of(step.row)

    def verify(session: Session, row: UpdateRow) -> None:
        if problem:
            results = [*results_of(row), failure("files.received", problem)]
            conclude(session, row, write_verdict(row.digest, "rejected", results, step.now), step.own.key)
        else:
            move(session, row, CHECKING, "verified", step.now)

    return arrow(step.store, step.row, verify)


def _forget_if_rejected(step: _Step, state: State) -> State:
    """Keep nothing of the files of an update that is given up (U12); a kill just before leaves that to a sweep."""
    if state == "rejected":
        for file in files_of(step.update):
            step.blobs.discard_partial(file.sha256)
    return state


def _problem_of_files(step: _Step) -> str | None:
    """What is wrong with the files that came; empty when nothing is, None while they are still awaited."""
    if not all(is_here(step.blobs, file) for file in files_of(step.update)):
        if step.now >= step.update.expires:
            return "the update expired before its files were here"
        return None if step.now < step.row.changed + UPLOAD_TIME else f"its files did not come within {UPLOAD_TIME}"
    for file in files_of(step.update):
        size = step.blobs.path(file.sha256).stat().st_size
        if size != file.size:
            return f"{file.name} has {size} bytes, {file.size} were declared"
    return ""


def _check(step: _Step, checks: Checks) -> State:
    """To checked (V5); back to received if a file was damaged since, so that it is sent again."""
    files = files_of(step.update)
    try:
        paths = [step.blobs.open_verified(file.sha256) for file in files]
    except BanyanError:
        if all(step.blobs.has(file.sha256) for file in files):
            raise
        return arrow(step.store, step.row, lambda session, row: move(session, row, CHECKING, "received", step.now))
    results = _run(checks, step.update, paths[0], paths[1] if len(paths) > 1 else None)

    def keep(session: Session, row: UpdateRow) -> None:
        keep_results(row, [*results_of(row), *results])
        move(session, row, CHECKING, "checked", step.now)

    return arrow(step.store, step.row, keep)


def _run(checks: Checks, update: AnyOffering, file: Path, transfer: Path | None) -> Sequence[CheckResult]:
    """Run the checks; one that breaks down is a finding (V4)."""
    try:
        return checks(update, file, transfer)
    except BadData as error:
        return [failure("files.readable", error.message)]
    except (LocalFailure, OSError, MemoryError):
        raise
    except Exception as error:  # foreign bytes must not end the daemon; the log keeps the trace
        log.exception("a check broke down on update %s of %s", update.sequence, update.path)
        return [failure("crash", f"a check broke down: {type(error).__name__}: {error}")]


def _decide(step: _Step) -> State:
    """To the verdict (V3); an issuer whose enrolment ended meanwhile is not listened to."""

    def decide(session: Session, row: UpdateRow) -> None:
        results = list(results_of(row))
        try:
            if not speaker(session, row.issuer, step.own, step.now).may_speak_for(NodePath.parse(row.path)):
                results.append(failure("envelope.still-enrolled", f"the issuer may no longer speak for {row.path}"))
        except NotEnrolled as error:
            results.append(failure("envelope.still-enrolled", error.message))
        conclude(session, row, write_verdict(row.digest, judge(results), results, step.now), step.own.key)

    return arrow(step.store, step.row, decide)
