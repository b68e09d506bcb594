"""Keys are replaced and taken back: children follow their parent's new key, and revoked keys say nothing more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi import FastAPI

from node import key_changes
from node.api.app import create_app
from node.cli import main
from node.context import Node, open_node, parent_of
from node.enrol import enrol
from node.former_keys import own_keys
from node.key_changes import RootKeys, rotate
from node.parent_repository import parent_listing
from node.publish import publish
from node.pull import pull
from node.repository import Publisher
from node.revocation import revoke
from node.settings import Settings
from node.updates import list_updates, show_update
from node.watched_logs import held_note, watch_parent_log
from registry.documents import ReleasePin
from registry.errors import BadData, LocalFailure
from registry.keys import PrivateKey
from registry.log.entry import LogEntry
from registry.log.leaves import entries_about, leaf_rows
from registry.paths import NodePath
from registry.store import select
from registry.tables import DecisionRow, EnrolmentRow, PeerRow, UpdateRow
from registry.trust.keyring import Keyring
from registry.trust.repository import Repository, newest_root
from registry.trust.roles import keys_of
from sync.daemon import only_daemon
from sync.enrolled import speaker
from sync.inbox import Identity, NotEnrolled, settle
from sync.verdict import failure
from tests.world import enrol_child, make_node, own_work, put_base, put_release, put_tree, snapshot, utc_now

CARDS = NodePath.parse("en/finance/cards")
NONE = RootKeys()


@dataclass
class Family:
    parent: Node
    child: Node
    pins: dict[str, ReleasePin]
    serve: Callable[[FastAPI], str]

    def restart(self) -> None:
        """The parent's daemon was stopped, its keys may have changed; it runs again, at another address."""
        self.parent.close()
        self.parent = open_node(Settings(home=self.parent.home.root))
        url = self.serve(create_app(self.parent))
        with self.child.store.transaction() as session:
            session.scalars(select(PeerRow)).one().url = url


@pytest.fixture
def family(tmp_path: Path, serve: Callable[[FastAPI], str]) -> Iterator[Family]:
    parent = make_node(tmp_path / "parent", "en", "en/finance")
    pins = put_tree(parent, "en", "en/finance")
    child = make_node(tmp_path / "child", str(CARDS))
    enrol_child(child, parent, serve(create_app(parent)), str(CARDS))
    pull(child, None, utc_now())
    made = Family(parent, child, pins, serve)
    yield made
    made.child.close()
    made.parent.close()


def send(family: Family, *, anew: bool = False) -> str:
    return publish(family.child, CARDS, None, 0, lambda _: True, now=utc_now(), anew=anew).digest


def test_a_child_follows_its_parents_new_key_without_being_enrolled_again(family: Family) -> None:
    """F4, F10: what the old key had signed stays provable, what is new is signed by the new one."""
    old = family.parent.key.public
    rotate(family.parent, "targets", NONE, utc_now())
    family.restart()
    new = family.parent.key.public
    assert new != old
    pin = put_release(family.parent, "en", put_base(family.parent), version=2)
    assert {one.path for one in pull(family.child, None, utc_now())} == {"en", "en/finance"}
    assert parent_of(family.child).public_key == new.hex
    assert snapshot(family.child)[1]["en"] == pin.digest
    assert [folder.name for folder in family.child.home.trusted.iterdir()] == [new.id]
    with family.child.store.read() as session:
        (row,) = session.scalars(select(EnrolmentRow))
        assert row.state == "active"
    pull(family.child, None, utc_now())
    own_work(family.child, family.pins["en/finance"], str(CARDS), b"learned")
    digest = send(family)
    assert show_update(family.parent, digest, utc_now()).summary.state == "received"


def test_verdicts_from_before_stay_readable(family: Family) -> None:
    """F4, V8, L1: the parent signs them anew, and its log says so; a child keeps those that it had."""
    own_work(family.child, family.pins["en/finance"], str(CARDS), b"learned")
    digest = send(family)
    own = Identity(family.parent.key, family.parent.paths)
    with family.parent.store.transaction() as session:
        session.get_one(UpdateRow, digest).state = "quarantined"
    settle(family.parent.store, digest, "rejected", failure("person", "odd"), own, utc_now())
    assert show_update(family.child, digest, utc_now()).verdict is not None
    watch_parent_log(family.child, utc_now())
    seen = held_note(family.child, family.parent.key.public)
    rotate(family.parent, "targets", NONE, utc_now())
    family.restart()
    with family.parent.store.read() as session:
        kinds = [LogEntry.from_bytes(row.entry).kind for row in leaf_rows(session, 0, 20)]
        logged = {LogEntry.from_bytes(row.entry).document for row in entries_about(session, digest, 20)}
        verdict = session.get_one(UpdateRow, digest).verdict or b""
    assert kinds[-2:] == ["update.rejected", "key.rotated"]
    assert sha256(verdict).hexdigest() in logged
    parent_listing(family.child, utc_now())
    assert seen is not None
    assert held_note(family.child, family.parent.key.public) == seen
    assert watch_parent_log(family.child, utc_now()) == "consistent"
    with family.child.store.transaction() as session:
        at, session.scalars(select(PeerRow)).one().url = parent_of(family.child).url, "http://127.0.0.1:9"
    kept = show_update(family.child, digest, utc_now())
    assert kept.verdict is not None
    assert "cannot be reached" in kept.problem
    with family.child.store.transaction() as session:
        session.scalars(select(PeerRow)).one().url = at
    assert show_update(family.child, digest, utc_now()).problem == ""


def test_a_child_that_was_away_for_three_changes(family: Family) -> None:
    """F4, F5: and one that had never looked at the repository."""
    import shutil

    shutil.rmtree(family.child.home.trusted)
    for _ in range(3):
        rotate(family.parent, "targets", NONE, utc_now())
        family.restart()
    pull(family.child, None, utc_now())
    assert parent_of(family.child).public_key == family.parent.key.public.hex
    assert enrol(family.child, parent_of(family.child).url, CARDS, lambda _: False, utc_now()) == "active"


def test_the_old_key_speaks_for_nobody(family: Family) -> None:
    """F4: a thief with the old key alone, at the parent's address."""
    thief_key = family.parent.key
    rotate(family.parent, "targets", NONE, utc_now())
    family.restart()
    pull(family.child, None, utc_now())
    home = family.parent.home.root.parent / "thief"
    (home / "keys").mkdir(parents=True, mode=0o700)
    thief_key.save(home / "keys/node.pem")
    thief = make_node(home, "en", "en/finance")
    put_release(thief, "en", put_base(thief), version=7)
    url = family.serve(create_app(thief))
    with family.child.store.transaction() as session:
        session.scalars(select(PeerRow)).one().url = url
    with pytest.raises(BadData):
        pull(family.child, None, utc_now())
    with pytest.raises(BadData, match="another key"):
        enrol(family.child, url, CARDS, lambda _: True, utc_now())
    assert snapshot(family.child)[1]["en"] == family.pins["en"].digest
    thief.close()


@pytest.mark.parametrize("step", ["change_root", "_sign_anew", "promote", "renew"])
def test_a_change_that_was_killed_is_finished_by_the_same_command(
    family: Family, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """F10."""

    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    target: Any = {
        "change_root": Repository, "_sign_anew": key_changes, "promote": Keyring,
        "renew": Publisher,
    }[step]  # fmt: skip
    Publisher(family.parent).renew(utc_now())
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(target, step, die)
        rotate(family.parent, "targets", NONE, utc_now())
    family.restart()
    rotate(family.parent, "targets", NONE, utc_now())
    family.restart()
    pull(family.child, None, utc_now())
    assert parent_of(family.child).public_key == family.parent.key.public.hex
    with family.parent.store.read() as session:
        assert speaker(session, family.child.key.public.id, Identity(family.parent.key, ()), utc_now()).places == (
            CARDS,
        )
    assert not list(family.parent.home.key_file.parent.glob("*.next"))


def test_own_work_stays_own_after_a_new_key(family: Family) -> None:
    """F4: a child with a new key has to be enrolled anew, and offers with it what it made before."""
    own_work(family.child, family.pins["en/finance"], str(CARDS), b"learned")
    former = family.child.key.public
    rotate(family.child, "targets", NONE, utc_now())
    child = family.child = open_node(Settings(home=family.child.home.root))
    assert own_keys(child) == [child.key.public, former]
    url = parent_of(child).url
    enrol_child(child, family.parent, url, str(CARDS))
    detail = show_update(family.parent, send(family), utc_now())
    assert (detail.update.issuer, detail.summary.state) == (child.key.public.id, "received")


def test_root_keys_on_sticks(family: Family, tmp_path: Path) -> None:
    """F10: three keys, two of which have to sign, none of them in the home."""
    sticks = tuple(tmp_path / f"stick{n}/root.pem" for n in range(3))
    change = rotate(family.parent, "root", RootKeys(new=sticks, threshold=2), utc_now())
    assert (len(change.keys), change.threshold) == (3, 2)
    assert not (family.parent.home.key_file.parent / "root.pem").exists()
    with pytest.raises(LocalFailure, match="less than that"):
        rotate(family.parent, "root", RootKeys(at=sticks), utc_now())
    for at in ((), sticks[:1]):
        with pytest.raises(LocalFailure, match="asks for 2 of 3 root keys"):
            rotate(family.parent, "timestamp", RootKeys(at=at), utc_now())
    assert rotate(family.parent, "timestamp", RootKeys(at=sticks[1:]), utc_now()).root_version == 3
    lost = change.keys[0]
    assert len(revoke(family.parent, lost[:12], "lost", RootKeys(at=sticks[1:]), utc_now()).change.keys) == 2  # type: ignore[union-attr]
    with pytest.raises(LocalFailure, match="none can be left out"):
        revoke(family.parent, change.keys[1], "lost too", RootKeys(at=sticks[1:]), utc_now())
    pull(family.child, None, utc_now())


def test_while_a_daemon_runs_nothing_is_changed(family: Family) -> None:
    with only_daemon(family.parent.home.daemon_lock), pytest.raises(LocalFailure, match="another daemon"):
        rotate(family.parent, "timestamp", NONE, utc_now())


@pytest.mark.parametrize("state", ["accepted", "quarantined", "gated"])
def test_a_revoked_child_says_nothing_more_and_what_it_gave_is_named(family: Family, state: str) -> None:
    """F11: what is in a release is listed by it, the rest is rejected."""
    own_work(family.child, family.pins["en/finance"], str(CARDS), b"learned")
    digests = [send(family)]
    digests.append(send(family, anew=True))
    with family.parent.store.transaction() as session:
        first, second = (session.get_one(UpdateRow, digest) for digest in digests)
        first.state, first.release = "released", family.pins["en/finance"].digest
        second.state = state
    key = family.child.key.public
    with pytest.raises(BadData, match="needs its reason"):
        revoke(family.parent, key.id, " ", NONE, utc_now())
    with pytest.raises(BadData, match="no key"):
        revoke(family.parent, "0" * 64, "x", NONE, utc_now())
    done = revoke(family.parent, key.fingerprint, "stolen laptop", NONE, utc_now())
    assert (done.places, done.rejected) == ((str(CARDS),), (digests[1],))
    assert [(one.release, one.updates) for one in done.contributed] == [("en/finance@v1", (digests[0],))]
    assert {row.digest: row.state for row in list_updates(family.parent)} == dict(
        zip(digests, ("released", "rejected"), strict=True)
    )
    with family.parent.store.read() as session:
        with pytest.raises(NotEnrolled):
            speaker(session, key.id, Identity(family.parent.key, ()), utc_now())
        reasons = session.scalars(select(DecisionRow.body).where(DecisionRow.kind == "key.revoked"))
        assert ["stolen laptop" in body for body in reasons] == [True]


def test_a_revoked_child_learns_it_when_the_parent_has_a_new_key(family: Family) -> None:
    """F4, F11."""
    revoke(family.parent, family.child.key.public.id, "gone", NONE, utc_now())
    rotate(family.parent, "targets", NONE, utc_now())
    family.restart()
    parent_listing(family.child, utc_now())
    with family.child.store.read() as session:
        assert [row.state for row in session.scalars(select(EnrolmentRow))] == ["revoked"]


def call(home: Path, *words: str, **environment: str) -> str:
    done = CliRunner().invoke(main, [*words, "--home", str(home)], env=environment or None)
    assert done.exit_code == 0, done.output
    return done.output


def test_no_command_prints_a_private_key(tmp_path: Path) -> None:
    """K5: under one passphrase, before and after changes of every key."""
    home = tmp_path / "home"
    secret = "correct horse battery"
    said = call(home, "init", "--no-starter", BANYAN_PASSPHRASE=secret)
    for role in ("root", "targets", "snapshot", "timestamp"):
        said += call(home, "keys", "rotate", role, BANYAN_PASSPHRASE=secret)
        said += call(home, "keys", "rotate", role, "--json", BANYAN_PASSPHRASE=secret)
    said += call(home, "keys", BANYAN_PASSPHRASE=secret) + call(home, "keys", "--json", BANYAN_PASSPHRASE=secret)
    node_key = PrivateKey.load(home / "keys/node.pem", secret)
    said += call(home, "keys", "revoke", node_key.public.id[:8], "--why", "a try", BANYAN_PASSPHRASE=secret)
    root = newest_root(home / "repository")
    assert root is not None
    for file in sorted((home / "keys").iterdir()):
        key = PrivateKey.load(file, secret)
        raw = key.ed25519.private_bytes_raw()
        assert raw.hex() not in said
        assert b"ENCRYPTED" in file.read_bytes()
        assert key.public in [one for role in root.roles for one in keys_of(root, role)]  # type: ignore[arg-type]
    assert "PRIVATE" not in said
    assert secret not in said


def test_an_enrolment_of_the_old_key_is_worth_nothing_at_once(family: Family) -> None:
    """F4: enrolments are signed anew in the transaction that notes the change."""
    before = utc_now() - timedelta(seconds=1)
    rotate(family.parent, "targets", NONE, utc_now())
    family.restart()
    with family.parent.store.read() as session:
        row = session.scalars(select(EnrolmentRow).where(EnrolmentRow.key_id == family.child.key.public.id)).one()
    assert row.envelope is not None
    assert family.parent.key.public.id in row.envelope.decode()
    assert before <= utc_now()
