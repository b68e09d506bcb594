"""Rounds of a child with its parent over loopback: what is sent, what is remembered, what a bad parent can do."""

from __future__ import annotations

import hashlib
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from node.api.app import create_app
from node.context import Node
from node.exchange import exchange
from node.outbox import updates_out
from node.publish import publish
from node.pull import pull
from node.status import PeerStatus, status
from node.updates import list_updates
from registry.documents import ReleasePin
from registry.errors import LocalFailure
from registry.paths import NodePath
from registry.store import select
from registry.tables import PeerRow
from sync.inbox import Identity, advance, settle
from sync.verdict import failure
from tests.sync.test_transport import head_of, http
from tests.world import enrol_child, make_node, own_work, put_base, put_enrolment, put_release, utc_now

CARDS = NodePath.parse("en/cards")
ADAPTER = b"what the child learned" * 90_000
GONE = "http://127.0.0.1:9"
Answering = Callable[[Callable[[socket.socket], None]], str]


class Family:
    """A parent that serves en, and a child with a release of its own below it."""

    def __init__(self, folder: Path, serve: Callable[[FastAPI], str]) -> None:
        self.parent = make_node(folder / "parent", "en", timestamp_valid_hours=72)  # tests go on tomorrow
        put_enrolment(self.parent, "en/somebody")
        self.pin = put_release(self.parent, "en", put_base(self.parent))
        self.url = serve(create_app(self.parent))
        self.child = make_node(folder / "child", str(CARDS), poll_interval_s=1)
        enrol_child(self.child, self.parent, self.url, str(CARDS))
        pull(self.child, None, utc_now())
        own_work(self.child, self.pin, str(CARDS), ADAPTER)

    def point_to(self, url: str) -> None:
        """Let the child believe that its parent is somewhere else."""
        with self.child.store.transaction() as session:
            session.scalars(select(PeerRow)).one().url = url

    def set(self, **settings: Any) -> None:
        """Change settings of the child."""
        self.child = replace(self.child, settings=self.child.settings.model_copy(update=settings))

    def publish(self) -> str:
        done = publish(self.child, CARDS, None, 0, lambda outgoing: True, now=utc_now())
        return done.digest

    def round(self, **options: Any) -> Any:
        options = {"now": utc_now(), "chance": 0.5, "thorough": True, **options}
        return exchange(self.child, options.pop("now"), options.pop("chance"), **options)

    def seen(self, now: Any = None) -> PeerStatus:
        """The parent as the child's status shows it."""
        [peer] = status(self.child, now or utc_now()).peers
        return peer


@pytest.fixture
def family(tmp_path: Path, serve: Callable[[FastAPI], str]) -> Iterator[Family]:
    family = Family(tmp_path, serve)
    with closing(family.parent), closing(family.child):
        yield family


def test_an_update_that_could_not_be_sent_is_sent_by_a_later_round(family: Family) -> None:
    """S6."""
    family.point_to(GONE)
    with pytest.raises(LocalFailure, match="cannot be reached") as caught:
        family.publish()
    assert "`node sync once` sends it later" in caught.value.hint
    assert status(family.child, utc_now()).outbox_waiting == 1
    assert family.round(insist=True).error is not None
    family.point_to(family.url)
    [digest] = family.round(insist=True).sent
    assert [row.digest for row in updates_out(family.child, ["received"])] == [digest]
    assert family.parent.blobs.has(hashlib.sha256(ADAPTER).hexdigest())
    assert family.round().sent == []
    assert [one.digest for one in list_updates(family.parent, "in")] == [digest]


def test_an_upload_that_broke_off_is_finished_by_a_later_round(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """S6, T8."""
    with monkeypatch.context() as patched:
        patched.setattr("sync.push._upload", lambda *_: iter(()))
        digest = family.publish()
    assert not family.parent.blobs.has(hashlib.sha256(ADAPTER).hexdigest())
    family.round()
    assert family.parent.blobs.has(hashlib.sha256(ADAPTER).hexdigest())
    assert [row.digest for row in updates_out(family.child, ["received"])] == [digest]


def test_an_update_that_expired_unsent_is_not_sent(family: Family) -> None:
    """S6."""
    family.point_to(GONE)
    with pytest.raises(LocalFailure):
        family.publish()
    family.point_to(family.url)
    assert family.round(now=utc_now() + timedelta(days=31)).sent == []
    assert [one.state for one in list_updates(family.child, "out")] == ["expired"]
    assert list_updates(family.parent, "in") == []


def test_the_sender_sees_what_a_person_decided(family: Family) -> None:
    """V6, V8."""
    digest = family.publish()
    own = Identity(family.parent.key, family.parent.paths)
    for _ in range(3):
        advance(family.parent.store, family.parent.blobs, digest, lambda *_: [failure("size.x", "odd")], own, utc_now())
    family.round()
    assert [one.state for one in list_updates(family.child, "out")] == ["quarantined"]
    settle(family.parent.store, digest, "rejected", failure("person", "not for us"), own, utc_now())
    family.round(thorough=False)
    assert [one.state for one in list_updates(family.child, "out")] == ["quarantined"]
    family.round(thorough=True)
    assert [one.state for one in list_updates(family.child, "out")] == ["rejected"]


def test_a_parent_that_is_down_is_left_alone_and_asked_again(family: Family) -> None:
    """S4."""
    now = utc_now()
    family.point_to(GONE)
    assert family.round(now=now).error is not None
    assert "failed 1 times in a row" in family.round(now=now).skipped
    peer = family.seen(now)
    assert peer.failures == 1
    assert peer.backoff_until is not None
    assert "cannot be reached" in peer.errors[0]["message"]
    assert family.round(now=peer.backoff_until).skipped == ""
    family.point_to(family.url)
    assert family.round(now=now, insist=True).error is None
    peer = family.seen(now)
    assert (peer.failures, peer.backoff_until, peer.last_success) == (0, None, now)


def test_a_parent_that_takes_too_much_waits_for_the_next_day(family: Family) -> None:
    """S5: nothing is lost, the transfer goes on where it was."""
    now, big = utc_now(), b"x" * 3_000_000
    family.set(peer_bytes_per_day=1_000_000)
    base = put_base(family.parent, {"config.json": b'{"model_type": "llama"}', "LICENSE": big})
    put_release(family.parent, "en", base, version=2)
    done = family.round(now=now)
    assert done.error is not None
    assert "all that one may have today" in done.error.message
    partial = family.child.blobs.partial_size(hashlib.sha256(big).hexdigest())
    assert 500_000 < partial < 1_100_000
    peer = family.seen(now)
    assert (peer.failures, peer.behind) == (0, [{"path": "en", "here": 1, "offered": 2}])
    assert peer.behind_since == now
    assert "bytes" in peer.waits
    assert peer.bytes_today <= 1_300_000
    assert family.round(now=now + timedelta(hours=23)).skipped == peer.waits
    family.round(now=now + timedelta(hours=25))
    assert family.child.blobs.partial_size(hashlib.sha256(big).hexdigest()) > partial


def endless(opening: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(opening)
        while True:
            connection.sendall(b"[" * (1 << 20))

    return talk


@pytest.mark.parametrize(
    "opening", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-Y: ", b"HTTP/1.1 500 No\r\n\r\n"]
)
def test_memory_is_bounded_while_a_parent_sends_without_end(
    family: Family, answering: Answering, opening: bytes
) -> None:
    """S5, H10."""
    family.point_to(answering(endless(opening)))
    tracemalloc.start()
    try:
        done = family.round()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert done.error is not None
    assert peak < 32 << 20
    assert family.seen().bytes_today < 64 << 20


def test_a_release_without_end_takes_what_was_declared(family: Family, answering: Answering) -> None:
    """T2, S5: and what has come is dropped when it is something else."""
    head = put_release(family.parent, "en", put_base(family.parent), version=2)

    def talk(connection: socket.socket) -> None:
        asked = head_of(connection).split(b" ")[1].decode()
        if asked == "/v1/heads":
            connection.sendall(http(f"[{head.model_dump_json()}]".encode()))
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                connection.sendall(b"x" * (1 << 20))
        connection.close()

    family.point_to(answering(talk))
    done = family.round()
    assert done.error is not None
    assert "more than" in done.error.message
    assert family.seen().bytes_today < 16 << 20
    assert family.child.blobs.check_integrity() == []


def test_a_parent_that_drips_costs_a_round_its_time_and_no_more(family: Family, answering: Answering) -> None:
    """S5, slow-loris."""

    def drip(connection: socket.socket) -> None:
        head_of(connection)
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"[" * 5000:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)

    family.point_to(answering(drip))
    family.set(peer_round_s=0.5)
    began = time.monotonic()
    assert family.round().error is not None
    assert time.monotonic() - began < 5


def test_lies_about_heads_change_nothing(family: Family, answering: Answering) -> None:
    """F2: what its repository does not prove is not even noted."""
    pin = ReleasePin(path="en", version=9, digest="0" * 64)

    def talk(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(http(f"[{pin.model_dump_json()}]".encode()))
        connection.close()

    family.point_to(answering(talk))
    assert family.round().error is not None
    peer = family.seen()
    assert peer.behind == []
    assert peer.failures == 1


def test_a_node_without_a_parent_says_so(tmp_path: Path) -> None:
    with closing(make_node(tmp_path, "en")) as node, pytest.raises(LocalFailure, match="has no parent yet"):
        exchange(node, utc_now(), 0.5, thorough=True)


def test_a_parent_sees_its_children(family: Family) -> None:
    family.publish()
    now = utc_now()
    [child] = status(family.parent, now).peers
    assert (child.role, child.path, child.queue) == ("child", "en/cards", {"received": 1})
    assert child.bytes_today == len(ADAPTER)
    assert child.last_contact is not None
    [place] = status(family.parent, now).places
    assert (place.path, place.version, place.policy, place.release_now) == ("en", 1, "every-n", False)
    assert place.reason == "no accepted update waits"


def test_a_status_changes_nothing_and_needs_no_network(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    family.point_to(GONE)
    before = family.child.home.database.read_bytes()
    monkeypatch.setattr(Node, "transport", None)
    found = status(family.child, utc_now())
    assert (found.daemon, found.inbox_waiting, found.quarantined) == (None, 0, [])
    assert family.child.home.database.read_bytes() == before
