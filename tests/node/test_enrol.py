from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from node.api.app import create_app
from node.config_file import read_config
from node.context import Node, parent_of
from node.enrol import Stranger, enrol, fetch_enrolment, look_at
from node.enrolments import accept, list_enrolments, revoke
from node.trust import trusted_keys
from registry.documents import Enrolment, EnrolmentRequest, open_document, seal_document
from registry.errors import BadData, LocalFailure
from registry.keys import PrivateKey
from registry.paths import NodePath
from registry.tables import EnrolmentRow, PeerRow
from sync.pull import fetch_release
from sync.transport import Refused
from tests.world import (
    adapter_bytes,
    enrol_child,
    make_node,
    own_work,
    put_base,
    put_release,
    put_tree,
    snapshot,
    utc_now,
)

CARDS = NodePath.parse("en/finance/cards")


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Node]:
    node = make_node(tmp_path / "parent", "en", "en/finance", "en/travel")
    yield node
    node.close()


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Node]:
    node = make_node(tmp_path / "child", "en/finance/cards")
    yield node
    node.close()


@pytest.fixture
def url(parent: Node, serve: Callable) -> str:
    return serve(create_app(parent))


def yes(stranger: Stranger) -> bool:
    return True


def test_a_child_is_enrolled_by_its_parents_operator(parent: Node, child: Node, url: str) -> None:
    shown: list[Stranger] = []

    def confirm(stranger: Stranger) -> bool:
        shown.append(stranger)
        return True

    assert enrol(child, url, CARDS, confirm, utc_now()) == "pending"
    assert [one.key.fingerprint for one in shown] == [parent.key.public.fingerprint]
    (applicant,) = list_enrolments(parent)
    assert (applicant.key, applicant.path, applicant.state) == (child.key.public, CARDS, "pending")
    assert fetch_enrolment(child, CARDS, utc_now()) == "pending"
    accept(parent, child.key.public.id, CARDS, utc_now())
    assert enrol(child, url, CARDS, lambda _: pytest.fail("was asked again"), utc_now()) == "active"
    with child.store.read() as session:
        row = session.get(EnrolmentRow, (child.key.public.id, str(CARDS)))
        assert row is not None
        assert row.envelope is not None
    enrolment, _ = open_document(row.envelope, Enrolment, [parent.key.public])
    assert (enrolment.path, enrolment.issuer_path, enrolment.key) == (
        "en/finance/cards",
        "en/finance",
        child.key.public.hex,
    )
    assert read_config(child.home.config)["parent_url"] == url
    assert parent_of(child).public_key == parent.key.public.hex


def test_a_parent_that_was_not_confirmed_leaves_no_trace(parent: Node, child: Node, url: str) -> None:
    with pytest.raises(LocalFailure, match="not confirmed"):
        enrol(child, url, CARDS, lambda stranger: False, utc_now())
    with pytest.raises(LocalFailure, match="no parent"):
        parent_of(child)
    assert list_enrolments(parent) == []
    assert "parent_url" not in read_config(child.home.config)


def test_another_key_at_the_parents_address_is_refused(
    parent: Node, child: Node, url: str, tmp_path: Path, serve: Callable
) -> None:
    """N6, N7."""
    enrol(child, url, CARDS, yes, utc_now())
    impostor = make_node(tmp_path / "impostor", "en/finance")
    elsewhere = serve(create_app(impostor))
    with pytest.raises(LocalFailure, match="has a parent already"):
        enrol(child, elsewhere, CARDS, yes, utc_now())
    with child.store.transaction() as session:
        row = session.get(PeerRow, parent.key.public.id)
        assert row is not None
        row.url = elsewhere
    with pytest.raises(BadData, match="another key"):
        enrol(child, elsewhere, CARDS, yes, utc_now())
    assert list_enrolments(impostor) == []
    impostor.close()


def test_the_key_in_the_settings_is_the_only_one_taken(tmp_path: Path, url: str) -> None:
    strict = make_node(tmp_path / "strict", "en/finance/cards", parent_key=PrivateKey.generate().public.hex)
    with pytest.raises(BadData, match="another key"):
        enrol(strict, url, CARDS, yes, utc_now())
    strict.close()


def test_a_place_that_is_not_below_the_parent(child: Node, url: str, parent: Node) -> None:
    """N2."""
    with pytest.raises(BadData, match="does not lie below"):
        enrol(child, url, NodePath.parse("de/home"), yes, utc_now())
    request = EnrolmentRequest(path="de/home", key=child.key.public.hex, url=None, created=utc_now())
    reply = httpx.post(f"{url}/v1/enrolments", content=seal_document(request, child.key))
    assert reply.status_code == 400
    assert "does not lie below this node" in reply.text


def test_a_request_for_somebody_elses_key_is_refused(child: Node, url: str, parent: Node) -> None:
    """N1, N2."""
    victim = PrivateKey.generate()
    for key, at in ((victim.public, utc_now()), (child.key.public, utc_now() + timedelta(days=1))):
        request = EnrolmentRequest(path="en/finance/cards", key=key.hex, url=None, created=at)
        assert httpx.post(f"{url}/v1/enrolments", content=seal_document(request, child.key)).status_code == 400
    assert list_enrolments(parent) == []


def test_asking_again_stores_nothing_more(child: Node, url: str, parent: Node) -> None:
    """N3."""
    for _ in range(3):
        enrol(child, url, CARDS, yes, utc_now())
    assert len(list_enrolments(parent)) == 1


def test_a_revoked_key_is_told_so(child: Node, url: str, parent: Node) -> None:
    enrol_child(child, parent, url, "en/finance/cards")
    assert trusted_keys(parent, utc_now())(CARDS) == [parent.key.public, child.key.public]
    revoke(parent, child.key.public.id, CARDS, utc_now())
    assert trusted_keys(parent, utc_now())(CARDS) == [parent.key.public]
    with pytest.raises(Refused, match="may not speak") as caught:
        fetch_enrolment(child, CARDS, utc_now())
    assert caught.value.status == 403


def test_nobody_is_enrolled_who_did_not_ask(parent: Node) -> None:
    """N5."""
    with pytest.raises(LocalFailure, match="has asked"):
        accept(parent, "0" * 64, CARDS, utc_now())


def test_what_the_parent_may_sign(child: Node, parent: Node, url: str) -> None:
    enrol_child(child, parent, url, "en/finance/cards")
    trusted = trusted_keys(child, utc_now())
    for path in ("master", "en", "en/finance", "en/finance/top-up", "en/travel"):
        assert trusted(NodePath.parse(path)) == [parent.key.public]
    assert trusted(CARDS) == [child.key.public, parent.key.public]
    assert trusted(NodePath.parse("de/home")) == []


def test_an_enrolment_ends_when_it_says(child: Node, parent: Node, url: str) -> None:
    """N8, N9."""
    enrol_child(child, parent, url, "en/finance/cards")
    later = utc_now() + timedelta(days=366)
    assert child.key.public not in trusted_keys(parent, later)(CARDS)
    with pytest.raises(BadData, match="expired"):
        fetch_enrolment(child, CARDS, later)


def test_a_siblings_release_is_proven_by_its_enrolment(
    child: Node, parent: Node, url: str, tmp_path: Path, serve: Callable
) -> None:
    """R7: the parent passes on what a child signed; the sibling trusts it for the child's place and no other."""
    sibling = make_node(tmp_path / "sibling", "en/finance/top-up")
    enrol_child(child, parent, url, "en/finance/cards")
    enrol_child(sibling, parent, url, "en/finance/top-up")
    pins = put_tree(parent, "en", "en/finance")

    def pull(node: Node, source: str, pin: object, now: object = None) -> None:
        fetch_release(
            node.peer(source),
            pin,
            trusted=trusted_keys(node, now or utc_now()),
            store=node.store,
            blobs=node.blobs,
            now=now or utc_now(),
        )

    pull(child, url, pins["en/finance"])
    own = own_work(child, pins["en/finance"], "en/finance/cards", adapter_bytes(1))
    with pytest.raises(BadData, match="no release"):
        pull(parent, serve(create_app(child)), own)
    child = replace(child, settings=child.settings.model_copy(update={"share_own": True}))
    stolen = put_release(child, "en/finance/top-up", put_base(child), adapter=adapter_bytes(2))
    pull(parent, serve(create_app(child)), own)
    pull(sibling, url, own)
    assert snapshot(sibling)[1] == {"en/finance/cards": own.digest}
    with pytest.raises(BadData, match="not trusted for that path"):
        pull(sibling, serve(create_app(child)), stolen)
    sibling.close()


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b'{"key":"00","name":"x","paths":[],"version":"1"}', b'{"name":"x"}', b"\xff" * 100]
)
def test_a_parent_that_talks_nonsense(child: Node, answering: Callable, answer: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
        connection.close()

    with pytest.raises(BadData, match="did not say who it is"):
        look_at(child, answering(talk))
