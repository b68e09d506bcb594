from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from node.context import Node
from node.promotions import announce_releases, plan_of, promoter, release_updates
from node.rollback import roll_back
from node.run_lock import run_lock
from node.validation import store_validation, validation_rows
from registry.cards import parse_card
from registry.documents import BaseManifest, Verdict, open_document
from registry.errors import BadData, LocalFailure
from registry.paths import NodePath
from registry.store import select
from registry.tables import DecisionRow, ReleaseRow
from sync.delta import Delta
from sync.lifecycle import verdict_of
from tests.toy import KNOWN, held_out, rows
from tests.toy_tree import TAUGHT, decide, enrol, head_of, make_parent, put_toy_release, releases_of, state_of
from tests.world import utc_now

EN = NodePath.parse("en")


@pytest.fixture
def parent(toy_base: Path, tmp_path: Path) -> Iterator[Node]:
    with closing(make_parent(tmp_path / "home", toy_base)) as node:
        store_validation(node.home, EN, held_out(KNOWN))
        yield node


def released(parent: Node, adapters: dict[str, Delta]) -> list[str]:
    """Two updates in an announced release."""
    offers = [enrol(parent, path).offer(adapters[path], rows(table, range(20))) for path, table in TAUGHT.items()]
    for digest in offers:
        assert decide(parent, digest, lambda update, adapter, transfer: []) == "accepted"
    plan = replace(plan_of(parent), epochs=0, max_loss_points=100, min_gain_kept=-9)
    working = replace(promoter(parent), plan=plan)
    release_updates(parent, working, utc_now())
    announce_releases(parent, working, utc_now())
    assert {state_of(parent, digest)[0] for digest in offers} == {"announced"}
    return offers


def next_release(parent: Node, delta: Delta | None, version: int) -> None:
    old = head_of(parent, "en")
    base = BaseManifest.from_bytes(parent.blobs.read(old.release.base, 1 << 20))
    put_toy_release(parent, "en", base, version=version, delta=delta, previous=old.digest)


def test_going_back_is_a_new_release_with_the_old_content(parent: Node, toy_adapters: dict[str, Delta]) -> None:
    """G7, R12."""
    first, before = head_of(parent, "en"), validation_rows(parent.home, EN)
    offers = released(parent, toy_adapters)
    bad = head_of(parent, "en")
    assert len(validation_rows(parent.home, EN)) > len(before)
    done = roll_back(parent, EN, None, "wrong answers", utc_now())
    head = head_of(parent, "en")
    assert (done.version, done.content_of, done.undone, set(done.updates)) == (3, 1, (2,), set(offers))
    assert (head.digest, head.release.version, head.release.previous) == (done.digest, 3, bad.digest)
    same = {"base", "adapter", "above", "anchors", "contributions"}
    assert head.release.model_dump(include=same) == first.release.model_dump(include=same)
    card = parent.blobs.read(head.release.card.sha256, 1 << 20).decode()
    assert "Version 3 of en is version 1 again" in card
    assert "wrong answers" in card
    assert parse_card(card).licence == "MIT"
    assert releases_of(parent, "en") == [1, 2, 3]
    assert validation_rows(parent.home, EN) == before
    with parent.store.read() as session:
        [noted] = session.scalars(select(DecisionRow).where(DecisionRow.kind == "release.rollback"))
    assert (noted.subject, json.loads(noted.body)["instead_of"]) == (head.digest, bad.digest)


def test_the_senders_of_what_is_undone_are_told_and_may_offer_it_anew(
    parent: Node, toy_adapters: dict[str, Delta]
) -> None:
    """V9."""
    offers = released(parent, toy_adapters)
    roll_back(parent, EN, 1, "wrong answers", utc_now())
    for digest in offers:
        assert state_of(parent, digest)[0] == "undone"
        envelope = verdict_of(parent.store, digest)
        assert envelope is not None
        verdict = open_document(envelope, Verdict, [parent.key.public])[0]
        assert (verdict.outcome, verdict.checks[-1].name) == ("rejected", "rollback")
        assert verdict.checks[-1].reason == "version 2 of en was undone: wrong answers"
    release_updates(parent, promoter(parent), utc_now())
    assert releases_of(parent, "en") == [1, 2, 3]  # they do not come back by themselves
    again = enrol(parent, "en/other").offer(toy_adapters["en/shapes"])
    assert decide(parent, again, lambda update, adapter, transfer: []) == "accepted"


def test_to_any_older_version_but_not_twice_by_default(parent: Node, toy_adapters: dict[str, Delta]) -> None:
    next_release(parent, toy_adapters["en/tools"], 2)
    next_release(parent, toy_adapters["en/shapes"], 3)
    done = roll_back(parent, EN, 2, "three was wrong", utc_now())
    assert (done.version, done.content_of, done.undone) == (4, 2, (3,))
    with pytest.raises(BadData, match="went back already"):
        roll_back(parent, EN, None, "again", utc_now())
    done = roll_back(parent, EN, 1, "two was wrong as well", utc_now())
    assert (done.version, done.content_of, done.undone) == (5, 1, (2, 3, 4))


@pytest.mark.parametrize(
    ("version", "why", "message"),
    [
        (None, "x", "no such older version of en; there are: none"),
        (7, "x", "no such older"),
        (1, " ", "needs a reason"),
    ],
)
def test_what_cannot_be_gone_back_to(parent: Node, version: int | None, why: str, message: str) -> None:
    with pytest.raises(BadData, match=message):
        roll_back(parent, EN, version, why, utc_now())
    with pytest.raises(BadData, match="no release of its own at fr"):
        roll_back(parent, NodePath.parse("fr"), version, "x", utc_now())


class Stopped(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


@pytest.mark.parametrize("at", ["node.rollback.serve", "node.rollback.undo", "node.rollback._forget"])
def test_ended_anywhere_nothing_is_half_undone(
    parent: Node, toy_adapters: dict[str, Delta], monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """G7."""

    def ended(*_: object) -> None:
        raise Stopped

    offers = released(parent, toy_adapters)
    before = head_of(parent, "en")
    with monkeypatch.context() as patched:
        patched.setattr(at, ended)
        with pytest.raises(Stopped):
            roll_back(parent, EN, None, "wrong answers", utc_now())
    assert (head_of(parent, "en"), {state_of(parent, one)[0] for one in offers}) == (before, {"announced"})
    assert roll_back(parent, EN, None, "wrong answers", utc_now()).version == 3
    assert {state_of(parent, one)[0] for one in offers} == {"undone"}
    assert parent.store.check_integrity() == []


def test_a_release_that_was_made_meanwhile_is_not_undone(
    parent: Node, toy_adapters: dict[str, Delta], monkeypatch: pytest.MonkeyPatch
) -> None:
    next_release(parent, toy_adapters["en/tools"], 2)

    def meanwhile(*_: object) -> None:
        next_release(parent, None, 3)

    monkeypatch.setattr("node.rollback._forget", meanwhile)
    with pytest.raises(LocalFailure, match="got another release meanwhile"):
        roll_back(parent, EN, None, "wrong", utc_now())
    assert head_of(parent, "en").release.version == 3


def test_a_path_at_work_and_a_lost_file_are_said(parent: Node, toy_adapters: dict[str, Delta]) -> None:
    next_release(parent, toy_adapters["en/tools"], 2)
    next_release(parent, None, 3)
    with run_lock(parent.home, EN), pytest.raises(LocalFailure, match="by another process"):
        roll_back(parent, EN, None, "x", utc_now())
    before = head_of(parent, "en")
    with parent.store.read() as session:
        adapter = session.scalars(select(ReleaseRow.adapter).where(ReleaseRow.version == 2)).one()
    assert adapter is not None
    parent.blobs.path(adapter).unlink()
    with pytest.raises(LocalFailure):
        roll_back(parent, EN, None, "x", utc_now())
    assert head_of(parent, "en") == before
