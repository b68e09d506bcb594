from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result
from fastapi import FastAPI

from node.api.app import create_app
from node.cli import main
from node.config_file import edit_config
from node.context import Node, open_node, opened_node
from node.daemon import run
from node.doctor import examine
from node.enrolments import revoke
from node.log_proof import prove
from node.own_log import last_entries, newest_checkpoint, problems_of_log
from node.publish import publish
from node.settings import Settings, load_settings
from node.trust import trusted_keys
from node.updates import show_update
from node.watched_logs import NotFollowed, check_parent_log, compare_note, held_note, take_shown, watch_parent_log
from registry.documents import CheckResult, Verdict, seal_document
from registry.errors import BadData, LocalFailure
from registry.home import Home
from registry.keys import PrivateKey
from registry.log.checkpoint import Checkpoint, open_checkpoint, origin_of, peek_checkpoint, sign_checkpoint
from registry.log.entry import LogEntry, log_entry
from registry.log.leaves import append, leaf_rows, log_root, log_size
from registry.log.merkle import Frontier, check_consistency, check_inclusion, leaf_hash
from registry.paths import NodePath
from registry.store import func, select
from registry.tables import EnrolmentRow, LogCheckpointRow, PeerRow, SeenCheckpointRow, UpdateRow
from sync.inbox import Identity
from sync.pull import fetch_release
from sync.review import settle as settle_update
from sync.seen_logs import MAX_SPLITS, MAX_TOLD, Seen, late, see, settle, splits
from tests.world import enrol_child, make_node, own_work, put_tree, utc_now

CARDS = NodePath.parse("en/finance/cards")
NOW = utc_now()
SECOND = timedelta(seconds=1)


def add_leaves(node: Node, count: int, name: str = "") -> None:
    with node.store.transaction() as session:
        for number in range(count):
            append(session, log_entry("release.made", hashlib.sha256(f"{name}{number}".encode()).hexdigest(), NOW))


def made(node: Node, now: datetime = NOW) -> Checkpoint:
    note = newest_checkpoint(node, now)
    assert note is not None
    return open_checkpoint(note, node.key.public)[0]


def checkpoints(node: Node) -> int:
    with node.store.read() as session:
        return session.scalars(select(func.count()).select_from(LogCheckpointRow)).one()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = make_node(tmp_path / "home", "en", log_checkpoint_interval_s=10)
    yield node
    node.close()


# Our own log


def test_a_checkpoint_is_made_when_the_log_grew_and_not_too_often(node: Node) -> None:
    """L6."""
    assert newest_checkpoint(node, NOW) is None
    add_leaves(node, 3)
    assert (made(node).size, made(node).origin) == (3, origin_of(node.key.public))
    add_leaves(node, 2)
    assert made(node, NOW + 9 * SECOND).size == 3
    assert made(node, NOW + 10 * SECOND).size == 5
    assert made(node, NOW + 99 * SECOND).size == 5
    add_leaves(node, 1)
    assert made(node, NOW).size == 6  # the clock was set back
    assert checkpoints(node) == 3
    assert problems_of_log(node.store, node.home.log_checkpoint) == []
    with node.store.read() as session:
        assert made(node).root == log_root(session, 6)


def test_a_kill_between_decision_and_checkpoint_loses_neither(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """L1, L6, L7: after the leaf, after the checkpoint, and before the file is in its place."""
    add_leaves(node, 3)
    for place in ("node.own_log.sign_checkpoint", "node.own_log._promise", "node.own_log.write_whole"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(place, killed)
            newest_checkpoint(node, NOW)
        add_leaves(node, 1, place)
    assert made(node, NOW + 10 * SECOND).size == 6
    assert peek_checkpoint(node.home.log_checkpoint.read_text()).size == 6
    assert problems_of_log(node.store, node.home.log_checkpoint) == []


def killed(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("after", [0, 1, 9])
def test_a_node_whose_database_was_restored_signs_nothing_more(tmp_path: Path, node: Node, after: int) -> None:
    """L7: shorter than what was given out, as long, or longer again."""
    add_leaves(node, 3)
    made(node)
    node.close()
    shutil.copy(node.home.database, tmp_path / "backup.db")
    again = open_node(node.settings)
    add_leaves(again, 1, "lost")
    assert made(again, NOW + 10 * SECOND).size == 4
    again.close()
    shutil.copy(tmp_path / "backup.db", node.home.database)
    for left in node.home.root.glob("banyan.db-*"):
        left.unlink()
    restored = open_node(node.settings)
    add_leaves(restored, after, "other")
    with pytest.raises(LocalFailure, match="an older copy") as refused:
        newest_checkpoint(restored, NOW + 99 * SECOND)
    assert str(node.home.log_checkpoint) in refused.value.hint
    assert checkpoints(restored) == 1
    assert len(problems_of_log(restored.store, node.home.log_checkpoint)) == 1
    with pytest.raises(LocalFailure, match="an older copy"):
        run(restored)
    findings = {one.name: one.state for one in examine(restored.settings)}
    assert findings["log"] == "failed"
    restored.close()


def test_the_file_alone_does_not_go_back(node: Node) -> None:
    """L7: the database was restored from a moment between the leaves and their checkpoint."""
    add_leaves(node, 3)
    made(node)
    add_leaves(node, 1, "more")
    with node.store.read() as session:
        newer = sign_checkpoint(Checkpoint(origin_of(node.key.public), 4, log_root(session, 4)), node.key)
    node.home.log_checkpoint.write_text(newer)
    assert made(node).size == 4
    node.home.log_checkpoint.write_text("damaged")
    with pytest.raises(LocalFailure, match="cannot read the newest checkpoint"):
        newest_checkpoint(node, NOW)


def test_the_log_of_a_node_stays_when_its_key_changes(node: Node) -> None:
    """L5."""
    add_leaves(node, 2)
    origin = made(node).origin
    successor = Node(node.home, node.settings, node.store, node.blobs, PrivateKey.generate())
    add_leaves(node, 1, "more")
    assert made(successor, NOW + 10 * SECOND) == Checkpoint(origin, 3, made(successor).root)


# A parent and its child


@dataclass
class Family:
    parent: Node
    child: Node
    url: str
    update: str

    def decide(self, outcome: str = "rejected") -> None:
        with self.parent.store.transaction() as session:
            session.get_one(UpdateRow, self.update).state = "quarantined"
        why = CheckResult(
            name="person", value=None, threshold=None, passed=outcome == "accepted", reason="a secret", cost_ms=0.0
        )
        own = Identity(self.parent.key, self.parent.paths)
        settle_update(self.parent.store, self.update, outcome, why, own, utc_now())


@pytest.fixture
def family(tmp_path: Path, serve: Callable[[FastAPI], str]) -> Iterator[Family]:
    parent = make_node(tmp_path / "parent", "en", "en/finance", log_checkpoint_interval_s=0)
    url = serve(create_app(parent))
    pins = put_tree(parent, "en", "en/finance")
    child = make_node(tmp_path / "child", str(CARDS))
    enrol_child(child, parent, url, str(CARDS))
    above, trusted = pins["en/finance"], trusted_keys(child, utc_now())
    fetch_release(child.peer(url), above, trusted=trusted, store=child.store, blobs=child.blobs, now=utc_now())
    own_work(child, above, str(CARDS), b"what the child learned")
    sent = publish(child, CARDS, None, 0, lambda outgoing: True, now=utc_now())
    yield Family(parent, child, url, sent.digest)
    child.close()
    parent.close()


def kinds(node: Node) -> list[str]:
    return [one.entry.kind for one in last_entries(node, 100)]


def test_every_decision_is_a_leaf(family: Family) -> None:
    """L1."""
    assert kinds(family.parent) == ["release.made", "release.made", "enrolment.granted"]
    assert kinds(family.child) == ["release.made"]
    with family.parent.store.read() as session:
        row = session.get_one(EnrolmentRow, (family.child.key.public.id, str(CARDS)))
    assert row.envelope is not None
    enrolment = hashlib.sha256(row.envelope).hexdigest()
    family.decide("accepted")
    revoke(family.parent, family.child.key.public.id, CARDS, utc_now())
    revoke(family.parent, family.child.key.public.id, CARDS, utc_now())
    granted, decided, revoked, again = [one.entry for one in last_entries(family.parent, 4)]
    assert (granted.subject, granted.by, revoked.kind, revoked.subject) == (
        enrolment,
        "person",
        "enrolment.revoked",
        enrolment,
    )
    assert again.subject == hashlib.sha256(row.request).hexdigest()
    assert (decided.kind, decided.subject, decided.by) == ("update.accepted", family.update, "person")
    assert decided.checker is not None
    assert decided.checker.startswith("banyan ")


def test_a_sender_proves_that_its_verdict_is_in_the_parents_log(family: Family) -> None:
    """L12."""
    with pytest.raises(LocalFailure, match="says nothing about"):
        prove(family.child, family.update, utc_now())
    family.decide()
    verdict = show_update(family.child, family.update, utc_now()).verdict
    assert verdict is not None
    found = prove(family.child, family.update[:8], utc_now())
    (one,) = found.entries
    assert (one.entry.kind, found.subject, found.log) == (
        "update.rejected",
        family.update,
        origin_of(family.parent.key.public),
    )
    checkpoint = open_checkpoint(found.checkpoint, family.parent.key.public)[0]
    hashes = [bytes.fromhex(text) for text in one.proof]
    check_inclusion(leaf_hash(one.entry.to_bytes()), one.position, checkpoint.size, hashes, checkpoint.root)
    at_home = prove(family.parent, family.update[:8], utc_now())
    assert at_home.entries == found.entries


def test_a_verdict_that_is_not_the_logged_one_is_a_lie(family: Family) -> None:
    """L12: the parent tells the sender one thing and logs another."""
    family.decide()
    said = Verdict(update=family.update, outcome="accepted", checks=(), reason="", created=utc_now())
    with family.parent.store.transaction() as session:
        row = session.get_one(UpdateRow, family.update)
        row.state, row.verdict = "accepted", seal_document(said, family.parent.key)
    assert show_update(family.child, family.update, utc_now()).verdict == said
    with pytest.raises(BadData, match=r"is not in its log, which says: update\.rejected"):
        prove(family.child, family.update, utc_now())


# The interface


def get(url: str, path: str, **query: object) -> httpx.Response:
    return httpx.get(f"{url}{path}", params=query)


def test_anybody_can_follow_the_log_and_nobody_learns_what_it_says(family: Family) -> None:
    """L9: strangers get hashes; entries are for those who can name what they are about."""
    family.decide()
    note = get(family.url, "/v1/log/checkpoint").text
    checkpoint = open_checkpoint(note, family.parent.key.public)[0]
    leaves = get(family.url, "/v1/log/leaves").json()["leaves"]
    frontier = Frontier()
    for leaf in leaves:
        frontier.add(bytes.fromhex(leaf))
    assert (frontier.size, frontier.root()) == (checkpoint.size, checkpoint.root) == (4, frontier.root())
    assert get(family.url, "/v1/log/leaves", start=1, count=2).json() == {"start": 1, "leaves": leaves[1:3]}
    told = get(family.url, "/v1/log/inclusion/" + leaves[2], size=4).json()
    proof = [bytes.fromhex(one) for one in told["proof"]]
    check_inclusion(bytes.fromhex(leaves[2]), told["position"], 4, proof, checkpoint.root)
    told = get(family.url, "/v1/log/consistency", first=2, second=4).json()
    with family.parent.store.read() as session:
        before = log_root(session, 2)
    check_consistency(2, before, 4, checkpoint.root, [bytes.fromhex(one) for one in told["proof"]])
    (entry,) = get(family.url, f"/v1/log/entries/{family.update}").json()["entries"]
    assert LogEntry.from_bytes(entry["entry"].encode()).kind == "update.rejected"
    assert "secret" not in entry["entry"]
    assert get(family.url, f"/v1/log/entries/{family.update}", size=3).json() == {"size": 3, "entries": []}
    assert get(family.url, f"/v1/log/entries/{'0' * 64}").json()["entries"] == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("consistency?first=0&second=3", 400),
        ("consistency?first=3&second=2", 400),
        ("consistency?first=1&second=99", 400),
        ("consistency?first=1", 400),
        ("consistency?first=1&second=99999999999999999999", 400),
        ("consistency?first=x&second=2", 400),
        (f"inclusion/{'0' * 64}?size=3", 404),
        ("inclusion/00?size=3", 400),
        (f"entries/{'A' * 64}", 400),
        (f"entries/{'0' * 64}?size=0", 400),
        ("leaves?start=-1", 400),
        ("leaves?count=1001", 400),
        ("nothing", 404),
    ],
)
def test_questions_that_make_no_sense_are_refused(family: Family, path: str, status: int) -> None:
    """H2."""
    answer = httpx.get(f"{family.url}/v1/log/{path}")
    assert (answer.status_code, "error" in answer.json()) == (status, True)


def test_an_inclusion_beyond_the_log_is_refused(family: Family) -> None:
    """L4."""
    leaf = get(family.url, "/v1/log/leaves").json()["leaves"][2]
    assert get(family.url, f"/v1/log/inclusion/{leaf}", size=2).status_code == 400
    assert get(family.url, f"/v1/log/inclusion/{leaf}", size=4).status_code == 400


def test_an_empty_log_has_no_checkpoint(node: Node, serve: Callable[[FastAPI], str]) -> None:
    url = serve(create_app(node))
    assert get(url, "/v1/log/checkpoint").status_code == 404
    assert get(url, f"/v1/log/entries/{'0' * 64}").status_code == 404
    assert get(url, "/v1/log/leaves").json() == {"start": 0, "leaves": []}


def test_only_checkpoints_of_logs_that_are_followed_are_taken(family: Family, serve: Callable[[FastAPI], str]) -> None:
    """L11, H6."""
    url = serve(create_app(family.child))

    def show(body: bytes) -> httpx.Response:
        return httpx.post(f"{url}/v1/log/seen", content=body)

    stranger = PrivateKey.generate()
    foreign = sign_checkpoint(Checkpoint(origin_of(stranger.public), 3, bytes(32)), stranger)
    own = newest_checkpoint(family.child, utc_now())
    assert own is not None
    for body, status in (
        (foreign.encode(), 404),
        (own.encode(), 404),
        (b"\xff", 400),
        (b"", 400),
        (b"x" * 70_000, 413),
    ):
        assert show(body).status_code == status
    note = newest_checkpoint(family.parent, utc_now())
    assert note is not None
    assert show(note.replace("\n3\n", "\n4\n").encode()).status_code == 404  # the signature does not hold
    assert show(note.encode()).json() == {"checkpoint": None}
    watch_parent_log(family.child, utc_now())
    assert show(note.encode()).json() == {"checkpoint": held_note(family.child, family.parent.key.public)}


# Split views


@dataclass
class Fork:
    """Two servers of one parent's key: what the second says differs from the third leaf on."""

    family: Family
    liar: Node
    other_url: str

    def child_at(self, home: Path, url: str, **settings: object) -> Node:
        """A sibling, to which the parent shows itself at an address."""
        node = make_node(home, "en/finance/other", **settings)
        key = self.family.parent.key.public
        with node.store.transaction() as session:
            session.add(PeerRow(key_id=key.id, role="parent", path="en", url=url, public_key=key.hex))
        return node


@pytest.fixture
def fork(family: Family, tmp_path: Path, serve: Callable[[FastAPI], str]) -> Iterator[Fork]:
    home = tmp_path / "liar"
    Home(home).create()
    shutil.copytree(family.parent.home.key_file.parent, home / "keys", dirs_exist_ok=True)
    edit_config(Home(home).config, {"paths": ["en"], "log_checkpoint_interval_s": 0})
    liar = open_node(Settings(home=home))
    with family.parent.store.read() as session, liar.store.transaction() as other:
        for row in leaf_rows(session, 0, 2):
            append(other, LogEntry.from_bytes(row.entry))
    add_leaves(liar, 2, "a lie")
    yield Fork(family, liar, serve(create_app(liar)))
    liar.close()


def test_a_parent_whose_log_only_grows_is_consistent(family: Family) -> None:
    """L10."""
    key = family.parent.key.public
    assert watch_parent_log(family.parent, utc_now()) is None  # it has no parent
    for size in (3, 3, 5):
        add_leaves(family.parent, size - len(kinds(family.parent)), f"{size}")
        assert watch_parent_log(family.child, utc_now()) == "consistent"
        held = held_note(family.child, key)
        assert held is not None
        assert peek_checkpoint(held).size == size
    with family.child.store.read() as session:
        assert session.scalars(select(func.count()).select_from(SeenCheckpointRow)).one() == 1
    assert splits(family.child.store) == []


@pytest.mark.parametrize("size", [3, 4, 5])
def test_a_child_finds_that_its_parents_log_was_forked(fork: Fork, size: int, caplog: pytest.LogCaptureFixture) -> None:
    """L10: of a larger size, of the same, and of a smaller one than the one it holds."""
    parent, child = fork.family.parent, fork.family.child
    add_leaves(parent, size - 3, "honest")
    assert watch_parent_log(child, utc_now()) == "consistent"
    with child.store.transaction() as session:
        session.get_one(PeerRow, parent.key.public.id).url = fork.other_url
    assert watch_parent_log(child, utc_now()) == "split"
    (split,) = splits(child.store)
    sizes = {open_checkpoint(note, parent.key.public)[0].size for note in (split.first, split.second)}
    assert sizes == {size, 4}
    assert split.sources == f"{fork.family.url}, {fork.other_url}"
    assert [record.levelname for record in caplog.records if "SPLIT VIEW" in record.message] == ["ERROR"]
    held = held_note(child, parent.key.public)
    assert held is not None
    assert peek_checkpoint(held).size == size  # the first one stays
    assert watch_parent_log(child, utc_now()) == "split"
    assert len(splits(child.store)) == 1


def test_siblings_find_the_split_by_comparing_what_they_saw(fork: Fork, tmp_path: Path, serve: Callable) -> None:
    """L11: each alone sees a log that only grows."""
    child, now = fork.family.child, utc_now()
    sibling = fork.child_at(tmp_path / "sibling", fork.other_url)
    assert watch_parent_log(child, now) == watch_parent_log(sibling, now) == "consistent"
    url = serve(create_app(sibling))
    asking = Node(
        child.home, load_settings({"home": child.home.root, "log_peers": url}), child.store, child.blobs, child.key
    )
    assert watch_parent_log(asking, now) == "split"
    assert [row.sources for row in splits(child.store)] == [f"{fork.family.url}, {url}"]
    assert watch_parent_log(sibling, now) == "split"  # it was shown the child's
    sibling.close()


def test_a_grandparent_lets_two_children_of_its_child_meet(fork: Fork, tmp_path: Path, serve: Callable) -> None:
    """L11: it never asks the parent; whoever shows the second checkpoint gets the first to compare."""
    key, now = fork.family.parent.key.public, utc_now()
    top = make_node(tmp_path / "top", "master")
    with top.store.transaction() as session:
        session.add(PeerRow(key_id=key.id, role="child", path="en", url="http://127.0.0.1:1", public_key=key.hex))
    url = serve(create_app(top))
    honest = fork.child_at(tmp_path / "one", fork.family.url, log_peers=[url])
    deceived = fork.child_at(tmp_path / "two", fork.other_url, log_peers=[url])
    assert watch_parent_log(honest, now) == "consistent"
    assert watch_parent_log(deceived, now) == "split"
    add_leaves(fork.family.parent, 1, "honest")  # now both show 4 leaves: the grandparent sees it itself
    assert watch_parent_log(honest, now) == "split"
    assert len(splits(top.store)) == 1
    for one in (honest, deceived, top):
        one.close()


def test_a_parent_that_does_not_answer_proves_nothing(family: Family, answering: Callable) -> None:
    """L10."""
    child, key = family.child, family.parent.key.public
    assert watch_parent_log(child, utc_now()) == "consistent"
    add_leaves(family.parent, 1, "more")
    note = newest_checkpoint(family.parent, utc_now())
    assert note is not None
    assert take_shown(child, note, "a sibling", NOW) is not None
    with child.store.transaction() as session:
        session.get_one(PeerRow, key.id).url = answering(lambda connection: connection.close())
    assert watch_parent_log(child, NOW) == "cannot tell"
    assert splits(child.store) == []
    assert [row.source for row in late(child.store, NOW + timedelta(hours=2))] == ["a sibling"]
    findings = examine(child.settings, now=lambda: NOW + timedelta(hours=2))
    assert [one.state for one in findings if one.name == "log"] == ["warning", "ok"]
    with child.store.transaction() as session:
        session.get_one(PeerRow, key.id).url = family.url
    assert watch_parent_log(child, NOW) == "consistent"
    assert late(child.store, NOW + timedelta(hours=2)) == []


def test_a_log_that_does_not_answer_is_asked_once_in_a_round(node: Node) -> None:
    key, asked = PrivateKey.generate(), []

    def silent(first: int, second: int) -> None:
        asked.append((first, second))

    with node.store.transaction() as session:
        for size in (5, 6, 7):
            checkpoint = Checkpoint("banyan.node/x", size, bytes(32))
            note = sign_checkpoint(checkpoint, key)
            see(session, Seen(key.public, checkpoint, note, "somebody"), NOW, may_be_first=True)
    assert settle(node.store, key.public, silent, NOW) == "cannot tell"
    assert asked == [(5, 6)]


def test_what_others_tell_is_bounded(family: Family) -> None:
    """L11: even where the log's own key signs it all."""
    parent, child = family.parent, family.child
    watch_parent_log(child, utc_now())
    for size in range(10, 10 + MAX_TOLD + 20):
        take_shown(child, sign_checkpoint(Checkpoint("banyan.node/x", size, bytes(32)), parent.key), "a liar", NOW)
    with child.store.read() as session:
        assert session.scalars(select(func.count()).select_from(SeenCheckpointRow)).one() == MAX_TOLD + 1
    assert watch_parent_log(child, utc_now()) == "split"
    assert len(splits(child.store)) == MAX_SPLITS
    with child.store.read() as session:
        assert session.scalars(select(func.count()).select_from(SeenCheckpointRow)).one() == 1


def test_a_checkpoint_in_our_name_that_we_did_not_make_is_a_split(node: Node) -> None:
    """L10: somebody else has our key, or we forgot what we signed."""
    add_leaves(node, 3)
    own = made(node)
    honest = sign_checkpoint(Checkpoint(own.origin, 2, _root(node, 2)), node.key)
    assert compare_note(node, honest, "a file", NOW).standing == "consistent"
    for size in (2, 3, 4):
        stolen = sign_checkpoint(Checkpoint(own.origin, size, bytes(32)), node.key)
        assert compare_note(node, stolen, "a file", NOW).standing == "split"
    with pytest.raises(NotFollowed):
        compare_note(node, sign_checkpoint(own, PrivateKey.generate()), "a file", NOW)
    with pytest.raises(BadData):
        compare_note(node, "nonsense", "a file", NOW)


def _root(node: Node, size: int) -> bytes:
    with node.store.read() as session:
        return log_root(session, size)


# The commands


def call(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, [*words, "--home", str(home)])


def as_json(home: Path, *words: str) -> tuple[int, dict]:
    done = call(home, *words, "--json")
    return done.exit_code, json.loads(done.stdout)


def test_the_commands_of_a_good_log(family: Family, tmp_path: Path, serve: Callable) -> None:
    family.decide()
    home, below = family.parent.home.root, family.child.home.root
    code, shown = as_json(home, "log", "show", "--last", "2")
    assert (code, [one["entry"]["kind"] for one in shown["entries"]]) == (0, ["enrolment.granted", "update.rejected"])
    assert "update.rejected" in call(home, "log").stdout
    code, said = as_json(home, "log", "checkpoint")
    assert (code, said["size"]) == (0, 4)
    assert call(home, "log", "checkpoint").stdout == said["note"]
    code, proven = as_json(below, "log", "prove", family.update)
    assert (code, len(proven["entries"])) == (0, 1)
    assert "update.rejected" in call(below, "log", "prove", family.update).stdout
    assert as_json(home, "log", "verify") == (0, {"standing": None, "problems": [], "splits": [], "log": "own"})
    assert call(below, "log", "checkpoint", "--peer", "parent").exit_code == 0
    assert as_json(below, "log", "verify", "--peer", "parent")[1]["standing"] == "consistent"
    assert "consistent" in call(below, "log", "verify", "--peer", "parent").stdout
    (tmp_path / "note").write_text(said["note"])
    assert as_json(below, "log", "compare", str(tmp_path / "note"))[1]["standing"] == "consistent"
    sibling = make_node(tmp_path / "sibling", "en/finance/x")
    key = family.parent.key.public
    with sibling.store.transaction() as session:
        session.add(PeerRow(key_id=key.id, role="parent", path="en", url=family.url, public_key=key.hex))
    url = serve(create_app(sibling))
    assert call(below, "log", "compare", url).exit_code == 4  # it has not looked yet
    watch_parent_log(sibling, utc_now())
    assert call(below, "log", "compare", url).exit_code == 0
    sibling.close()


def test_the_commands_of_a_split_log(fork: Fork, tmp_path: Path) -> None:
    """L10: kept, shown, and an exit code of its own."""
    below, parent = fork.family.child.home.root, fork.family.parent
    assert call(below, "log", "verify", "--peer", "parent").exit_code == 0
    (tmp_path / "note").write_text(newest_checkpoint(fork.liar, utc_now()) or "")
    code, found = as_json(below, "log", "compare", str(tmp_path / "note"))
    assert (code, found["standing"]) == (3, "split")
    code, found = as_json(below, "log", "verify")
    assert (code, found["problems"], len(found["splits"])) == (3, [], 1)
    assert "SPLIT VIEW" in call(below, "log", "verify").stdout
    (finding,) = [one for one in examine(fork.family.child.settings) if one.name == "log"]
    assert (finding.state, parent.key.public.id in finding.detail) == ("failed", True)
    with opened_node(load_settings({"home": below})) as child, child.store.transaction() as session:
        session.get_one(PeerRow, parent.key.public.id).url = fork.other_url
    assert call(below, "log", "verify", "--peer", "parent").exit_code == 3


def test_the_commands_say_what_is_missing(node: Node, tmp_path: Path) -> None:
    home = node.home.root
    assert "the log is empty" in call(home, "log", "show").stdout
    for words, code, message in (
        (["checkpoint"], 4, "no checkpoint yet"),
        (["checkpoint", "--peer", "parent"], 4, "no parent yet"),
        (["verify", "--peer", "parent"], 4, "no parent yet"),
        (["verify", "--peer", "child"], 2, "child"),
        (["prove", "0123"], 4, "says nothing"),
        (["prove", "x"], 3, "not the beginning of a digest"),
        (["compare", str(tmp_path / "missing")], 4, "No such file"),
        (["compare", "http://127.0.0.1:1"], 4, "no parent yet"),
    ):
        done = call(home, "log", *words)
        assert (done.exit_code, message in done.stderr) == (code, True), (words, done.output)
        assert code == 2 or "next:" in done.stderr
    add_leaves(node, 2)
    made(node)
    add_leaves(node, 1, "new")
    with node.store.read() as session:
        assert log_size(session) == 3
    subject = hashlib.sha256(b"new0").hexdigest()
    assert (
        "no checkpoint covers" in call(home, "log", "prove", subject, "--set", "log_checkpoint_interval_s=3600").stderr
    )


def test_a_look_at_a_parent_that_is_gone_is_an_error(family: Family) -> None:
    with family.child.store.transaction() as session:
        session.get_one(PeerRow, family.parent.key.public.id).url = "http://127.0.0.1:1"
    with pytest.raises(LocalFailure, match="cannot be reached"):
        check_parent_log(family.child, utc_now())
