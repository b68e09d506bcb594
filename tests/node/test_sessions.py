"""Conversations that are remembered: by owner and name, bounded, deletable."""

from __future__ import annotations

from datetime import timedelta

import pytest

from assistant.state import Action, State
from node import sessions as remembered
from node.sessions import MAX_AGE, UnknownSession, forget_session, keep_session, load_session, sessions
from registry.errors import BadData
from registry.store import Store
from registry.tables import SessionRow
from tests.world import utc_now

STATE = State(turns=("We need a model",), asked=("task",), pending="task", language="en")


def test_a_conversation_comes_back_as_it_was_for_its_owner_alone(store: Store) -> None:
    keep_session(store, "ann", "letters", STATE, utc_now())
    assert load_session(store, "ann", "letters", utc_now()) == STATE
    assert load_session(store, "bob", "letters", utc_now()) == State()
    later = STATE.model_copy(update={"pending": "", "offer": Action(kind="clone", model="en")})
    keep_session(store, "ann", "letters", later, utc_now())
    assert load_session(store, "ann", "letters", utc_now()) == later
    assert [(one.name, one.turns, one.model) for one in sessions(store, "ann")] == [("letters", 1, None)]


def test_a_deleted_conversation_is_gone(store: Store) -> None:
    keep_session(store, "ann", "letters", STATE, utc_now())
    with pytest.raises(UnknownSession):
        forget_session(store, "bob", "letters")
    forget_session(store, "ann", "letters")
    assert load_session(store, "ann", "letters", utc_now()) == State()
    with pytest.raises(UnknownSession):
        forget_session(store, "ann", "letters")


def test_the_one_left_alone_longest_makes_room_and_the_old_are_forgotten(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "MAX_SESSIONS", 3)
    now = utc_now()
    for number in range(5):
        keep_session(store, "ann", f"s{number}", STATE, now + timedelta(minutes=number))
    keep_session(store, "bob", "his", STATE, now)
    assert [one.name for one in sessions(store, "ann")] == ["s4", "s3", "s2"]
    assert load_session(store, "ann", "s4", now + MAX_AGE + timedelta(hours=1)) == State()
    keep_session(store, "bob", "new", STATE, now + MAX_AGE + timedelta(hours=1))
    assert [one.name for one in sessions(store, "bob")] == ["new"]
    assert sessions(store, "ann") == []


def test_what_is_no_name_and_what_another_version_wrote_are_refused_in_words(store: Store) -> None:
    for name in ("", "../x", "a b", "x" * 101):
        with pytest.raises(BadData, match="not a name"):
            keep_session(store, "ann", name, STATE, utc_now())
    with store.transaction() as session:
        row = SessionRow(owner="ann", name="odd", state='{"moods": 1}', created=utc_now(), changed=utc_now())
        session.add(row)
    with pytest.raises(BadData, match="another version"):
        load_session(store, "ann", "odd", utc_now())
    assert forget_session(store, "ann", "odd").name == "odd"
