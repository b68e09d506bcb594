"""Conversations that are remembered: one row for each name of an owner, bounded in number and age."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from assistant.state import State
from registry.errors import BadData
from registry.store import Store, select
from registry.tables import SessionRow

MAX_SESSIONS: Final = 100  # of one owner; the one that was left alone longest makes room
MAX_AGE: Final = timedelta(days=90)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")


class UnknownSession(BadData):
    """No conversation of this name is remembered for the asker."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no conversation {name!a:.100}", "node sessions lists them")


class Session(BaseModel):
    """A conversation as it is told of."""

    model_config = ConfigDict(frozen=True)

    name: str
    turns: int
    model: str | None
    created: datetime
    changed: datetime


def checked_name(name: str) -> str:
    """The name of a conversation. Raises BadData where it is none."""
    if _NAME.fullmatch(name) is None:
        raise BadData(f"not a name of a conversation: {name!a:.100}", "1 to 100 letters, digits and . _ : -")
    return name


def load_session(store: Store, owner: str, name: str, now: datetime) -> State:
    """The conversation where it was left; a new one where there is none, or the one that there was is too old.

    Raises BadData for a name that is none, or for a conversation that another version of this program has written.
    """
    with store.read() as session:
        row = session.get(SessionRow, (owner, checked_name(name)))
    if row is None or row.changed < now - MAX_AGE:
        return State()
    try:
        return State.model_validate_json(row.state)
    except ValidationError:
        raise BadData(
            f"the conversation {name} was written by another version of this program", f"node sessions delete {name}"
        ) from None


def keep_session(store: Store, owner: str, name: str, state: State, now: datetime) -> None:
    """Remember a conversation; old ones of anybody, and those beyond `MAX_SESSIONS` of its owner, are forgotten."""
    with store.transaction() as session:
        for old in session.scalars(select(SessionRow).where(SessionRow.changed < now - MAX_AGE)):
            session.delete(old)
        row = session.get(SessionRow, (owner, checked_name(name)))
        if row is None:
            own = select(SessionRow).where(SessionRow.owner == owner).order_by(SessionRow.changed.desc())
            for beyond in session.scalars(own.offset(MAX_SESSIONS - 1)):
                session.delete(beyond)
            row = SessionRow(owner=owner, name=name, state="", created=now, changed=now)
            session.add(row)
        row.state, row.changed = state.model_dump_json(), now


def sessions(store: Store, owner: str) -> list[Session]:
    """The conversations of an owner, the latest first."""
    own = select(SessionRow).where(SessionRow.owner == owner).order_by(SessionRow.changed.desc())
    with store.read() as session:
        return [_told(row) for row in session.scalars(own)]


def forget_session(store: Store, owner: str, name: str) -> Session:
    """Forget a conversation. Raises UnknownSession."""
    with store.transaction() as session:
        row = session.get(SessionRow, (owner, name))
        if row is None:
            raise UnknownSession(name)
        session.delete(row)
        return _told(row)


def _told(row: SessionRow) -> Session:
    try:
        state = State.model_validate_json(row.state)
    except ValidationError:  # another version's: it can still be seen and deleted
        state = State()
    return Session(
        name=row.name, turns=len(state.turns), model=state.current or None, created=row.created, changed=row.changed
    )
