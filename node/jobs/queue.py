"""The rows of jobs: asked for, taken, told of, ended. Each change is one transaction; who runs them is `runner`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from node.jobs.requests import JobRequest, read_request
from node.serving.errors import Busy
from registry.errors import BadData
from registry.store import Session, Store, func, select
from registry.tables import JobRow, JobState

MAX_QUEUED: Final = 32
MAX_ENDED: Final = 500  # jobs that are over and still told of; the oldest are forgotten first
MAX_TRIES: Final = 3  # processes that may die under a job
OPEN: Final = ("queued", "running")


class UnknownJob(BadData):
    """No job of this number is known to the asker."""

    def __init__(self, number: int) -> None:
        super().__init__(f"there is no job {number}", "node jobs lists them")


class Progress(BaseModel):
    """How far a job is: `done` of `total` steps, rows or bytes of a stage, with the last figures and the time left."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    stage: str
    done: int
    total: int
    seconds_left: float | None = None
    figures: dict[str, float | None] = {}


class Job(BaseModel):
    """A job as it is told of."""

    model_config = ConfigDict(frozen=True)

    id: int
    kind: str
    arguments: dict[str, Any]
    state: JobState
    progress: Progress | None
    result: dict[str, Any] | None
    error: str | None
    hint: str
    created: datetime
    changed: datetime

    @property
    def request(self) -> JobRequest:
        """What was asked."""
        return read_request(self.arguments)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state not in OPEN


def add(store: Store, asked: JobRequest, owner: str, now: datetime) -> Job:
    """Queue a job; the one that the same owner already has waiting or running for the same is given back instead.

    So a client that asks again after a lost answer starts nothing twice. Raises Busy when too many wait.
    """
    arguments = asked.model_dump_json()
    with store.transaction() as session:
        same = select(JobRow).where(JobRow.owner == owner, JobRow.arguments == arguments, JobRow.state.in_(OPEN))
        row = session.scalars(same).first()
        if row is None:
            waiting = session.scalar(select(func.count()).select_from(JobRow).where(JobRow.state == "queued"))
            if (waiting or 0) >= MAX_QUEUED:
                raise Busy(f"{MAX_QUEUED} jobs wait already", "node jobs lists them; ask again when one is done")
            _forget(session)
            row = JobRow(owner=owner, kind=asked.kind, arguments=arguments, state="queued", created=now, changed=now)
            session.add(row)
            session.flush()
        return _told(row)


def find(store: Store, number: int, owner: str | None) -> Job:
    """One job of an owner; None sees those of all. Raises UnknownJob."""
    with store.read() as session:
        return _told(_row(session, number, owner))


def jobs(store: Store, owner: str | None, count: int = MAX_ENDED + MAX_QUEUED) -> list[Job]:
    """The jobs of an owner, the newest first; None sees those of all."""
    asked = select(JobRow).order_by(JobRow.id.desc()).limit(count)
    if owner is not None:
        asked = asked.where(JobRow.owner == owner)
    with store.read() as session:
        return [_told(row) for row in session.scalars(asked)]


def cancel(store: Store, number: int, owner: str | None, now: datetime) -> Job:
    """End a job; one that is over stays as it is. What runs it sees that and ends its process. Raises UnknownJob."""
    with store.transaction() as session:
        row = _row(session, number, owner)
        if row.state in OPEN:
            row.state, row.changed = "cancelled", now
            row.hint = "ask for the same again: a fine-tune or a clone goes on where it was"
        return _told(row)


def take(store: Store, now: datetime) -> Job | None:
    """The job that waits longest, running from now on; None where none waits."""
    with store.transaction() as session:
        row = session.scalars(select(JobRow).where(JobRow.state == "queued").order_by(JobRow.id).limit(1)).first()
        if row is None:
            return None
        row.state, row.changed, row.tries = "running", now, row.tries + 1
        return _told(row)


def put_back(store: Store, number: int, now: datetime) -> None:
    """Let a job wait again whose process was ended in good order, as its node ends; that counts as no try."""
    with store.transaction() as session:
        row = session.get(JobRow, number)
        if row is not None and row.state == "running":
            row.state, row.changed, row.tries = "queued", now, row.tries - 1


def recover(store: Store, now: datetime) -> None:
    """Let the jobs wait again whose process has gone with the node, or call them failed after `MAX_TRIES`.

    Only for who holds the lock of the jobs, since then nothing runs.
    """
    with store.transaction() as session:
        for row in session.scalars(select(JobRow).where(JobRow.state == "running")):
            row.state, row.changed = "queued", now
            if row.tries >= MAX_TRIES:
                row.state, row.error = "failed", f"{row.tries} processes ended before the work did"
                row.hint = "node doctor; ask for the same again: it goes on where it was"


def note(store: Store, number: int, progress: Progress, now: datetime) -> None:
    """Write down how far a running job is."""
    with store.transaction() as session:
        row = session.get(JobRow, number)
        if row is not None and row.state == "running":
            row.progress, row.changed = progress.model_dump_json(), now


def is_running(store: Store, number: int) -> bool:
    """Whether a job is still wanted."""
    with store.read() as session:
        row = session.get(JobRow, number)
        return row is not None and row.state == "running"


def finish(store: Store, number: int, result: Mapping[str, Any], now: datetime) -> None:
    """Write down what came of a job, unless it was cancelled meanwhile."""
    _end(store, number, now, state="done", result=json.dumps(result))


def fail(store: Store, number: int, error: str, hint: str, now: datetime) -> None:
    """Write down why a job failed, unless it was cancelled meanwhile."""
    _end(store, number, now, state="failed", error=error, hint=hint)


def _end(store: Store, number: int, now: datetime, **columns: Any) -> None:
    with store.transaction() as session:
        row = session.get(JobRow, number)
        if row is not None and row.state == "running":
            for name, value in {**columns, "changed": now}.items():
                setattr(row, name, value)


def _row(session: Session, number: int, owner: str | None) -> JobRow:
    row = session.get(JobRow, number)
    if row is None or owner not in (None, row.owner):
        raise UnknownJob(number)
    return row


def _forget(session: Session) -> None:
    """Make room among the jobs that are over."""
    over = select(JobRow).where(JobRow.state.not_in(OPEN)).order_by(JobRow.id.desc()).offset(MAX_ENDED - 1)
    for row in session.scalars(over):
        session.delete(row)


def _told(row: JobRow) -> Job:
    return Job(
        id=row.id,
        kind=row.kind,
        arguments=json.loads(row.arguments),
        state=row.state,
        progress=Progress.model_validate_json(row.progress) if row.progress else None,
        result=json.loads(row.result) if row.result else None,
        error=row.error,
        hint=row.hint,
        created=row.created,
        changed=row.changed,
    )
