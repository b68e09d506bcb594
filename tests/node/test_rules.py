"""Attacks on rules of PROTOCOL.md that belong to no one module's tests."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.api.app import create_app
from node.api.rates import Rates
from node.context import Node
from node.decisions import decide
from node.enrol import fetch_enrolment
from node.enrolments import take_request
from node.offer import make_offer
from node.publish import publish
from node.pull import pull
from registry.documents import Enrolment, EnrolmentRequest, ReleasePin, Update, open_document, seal_document
from registry.errors import BadData, LocalFailure
from registry.keys import PrivateKey
from registry.paths import NodePath
from registry.store import func, select
from registry.tables import EnrolmentRow, ReleaseRow, UpdateRow
from sync.chain import stored_chain
from tests.world import BASE_FILES, enrol_child, make_node, own_work, put_base, put_release, put_tree, utc_now

CARDS = NodePath.parse("en/cards")
MB = 1 << 20


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Node]:
    node = make_node(tmp_path / "parent", "en")
    yield node
    node.close()


@pytest.fixture
def child(parent: Node, tmp_path: Path, serve: Callable[[Any], str]) -> Iterator[Node]:
    """A child with work to offer."""
    pin = put_tree(parent, "en")["en"]
    node = make_node(tmp_path / "child", str(CARDS))
    enrol_child(node, parent, serve(create_app(parent)), str(CARDS))
    pull(node, NodePath.parse("en"), utc_now())
    own_work(node, pin, str(CARDS), b"an adapter")
    yield node
    node.close()


def test_a_crowd_of_requests_does_not_fill_the_database(parent: Node) -> None:
    """N4: the thousand and first stranger is sent away; who asked before still gets the state."""

    def ask(key: PrivateKey) -> str:
        request = EnrolmentRequest(path=str(CARDS), key=key.public.hex, url=None, created=utc_now())
        return take_request(parent, seal_document(request, key), utc_now())

    first = PrivateKey.generate()
    assert ask(first) == "pending"
    with parent.store.transaction() as session:
        for number in range(999):
            key = f"{number:064x}"
            session.add(
                EnrolmentRow(key_id=key, path="en/x", public_key=key, state="pending", request=b"", changed=utc_now())
            )
    with pytest.raises(LocalFailure, match="too many requests wait"):
        ask(PrivateKey.generate())
    assert ask(first) == "pending"
    with parent.store.read() as session:
        assert session.scalar(select(func.count()).select_from(EnrolmentRow)) == 1000


def test_a_chain_of_two_bases_is_none(parent: Node) -> None:
    """R5: a signed release over a release of another base is not read."""
    above = put_release(parent, "en", put_base(parent))
    other = put_base(parent, {**BASE_FILES, "config.json": b"{}"})
    below = put_release(parent, "en/cards", other, above=above)
    with pytest.raises(BadData, match="have different bases"):
        stored_chain(parent.store, parent.blobs, below.digest)


def test_a_pin_that_names_another_version_is_not_followed(parent: Node) -> None:
    """R4: the digest is right, the name beside it is not."""
    base = put_base(parent)
    above = put_release(parent, "en", base)
    below = put_release(parent, "en/cards", base, above=ReleasePin(path="en", version=2, digest=above.digest))
    with pytest.raises(BadData, match="says that it is en@v1, but en@v2 was asked for"):
        stored_chain(parent.store, parent.blobs, below.digest)


def test_a_release_that_was_changed_in_the_database_is_not_read(parent: Node) -> None:
    """R13: whoever can write to the database cannot make a release."""
    pin = put_release(parent, "en", put_base(parent))
    with parent.store.transaction() as session:
        row = session.get(ReleaseRow, pin.digest)
        assert row is not None
        row.envelope = row.envelope[:200] + bytes([row.envelope[200] ^ 1]) + row.envelope[201:]
    with pytest.raises(BadData):
        stored_chain(parent.store, parent.blobs, pin.digest)


@pytest.mark.parametrize("liar", ["another key", "another signer"])
def test_an_enrolment_that_is_not_ours_is_not_kept(liar: str, parent: Node, child: Node) -> None:
    """N8: neither one for another key nor one that the pinned parent did not sign becomes ours."""
    stranger = PrivateKey.generate()
    with parent.store.transaction() as session:
        row = session.get(EnrolmentRow, (child.key.public.id, str(CARDS)))
        assert row is not None and row.envelope is not None
        signed, _ = open_document(row.envelope, Enrolment, [parent.key.public])
        if liar == "another key":
            row.envelope = seal_document(signed.model_copy(update={"key": stranger.public.hex}), parent.key)
        else:
            row.envelope = seal_document(signed.model_copy(update={"issuer": stranger.public.id}), stranger)
    with child.store.read() as session:
        before = session.scalars(select(EnrolmentRow.envelope)).all()
    with pytest.raises(BadData):
        fetch_enrolment(child, CARDS, utc_now())
    with child.store.read() as session:
        assert session.scalars(select(EnrolmentRow.envelope)).all() == before


def adapter_of(update: Update, **file: Any) -> Any:
    return update.adapter.model_copy(update={"file": update.adapter.file.model_copy(update=file)})


# What is wrong -> the status and the check that are answered.
REFUSALS: dict[str, tuple[Callable[[Update], dict[str, Any]], int, str]] = {
    "path": (lambda u: {"path": "en/travel"}, 403, "enrolment"),
    "audience": (lambda u: {"audience": "9" * 64}, 403, "audience"),
    "sequence": (lambda u: {"sequence": 2**40}, 409, "sequence"),
    "size": (lambda u: {"adapter": adapter_of(u, size=65 * MB)}, 413, "size"),
    "rank": (
        lambda u: {"adapter": u.adapter.model_copy(update={"shape": u.adapter.shape.model_copy(update={"rank": 65})})},
        413,
        "rank",
    ),
    "base": (lambda u: {"base": "9" * 64}, 400, "base"),
    "clock": (lambda u: {"created": utc_now() + timedelta(days=1)}, 400, "clock"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_bad_update_is_answered_with_the_check_that_failed(case: str, child: Node) -> None:
    """H3: the sender's program sees by status and code what to do."""
    change, status, check = REFUSALS[case]
    offer = make_offer(child, CARDS)
    update = offer.update(1, None, utc_now(), 30)
    envelope = seal_document(update.model_copy(update=change(update)), child.key)
    reply = httpx.post(f"{offer.parent.url}/v1/updates", content=envelope)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, f"check_{check}")
    assert f"envelope.{check}: " in reply.json()["error"]["message"]


def test_who_does_not_take_the_answer_is_dropped(parent: Node, serve: Callable[[Any], str]) -> None:
    """H9: a client that asks for a large file and reads nothing of it gives its place back."""
    large = bytes(64 * MB)
    put_tree(parent, "en", adapters={"en": large})
    url = serve(create_app(parent, rates=Rates(at_a_time=1, piece_s=0.3)))
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as silent:
        silent.sendall(f"GET /v1/blobs/{hashlib.sha256(large).hexdigest()} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        deadline = time.monotonic() + 30
        while httpx.get(f"{url}/health").status_code != 429:
            assert time.monotonic() < deadline
        while httpx.get(f"{url}/health").status_code != 200:
            assert time.monotonic() < deadline


def test_a_person_decides_with_a_reason_and_at_the_parent_alone(parent: Node, child: Node) -> None:
    """V6: nothing but blanks is no reason, the sender cannot accept its own, and the verdict holds the reason."""
    sent = publish(child, CARDS, None, 0, lambda outgoing: True, now=utc_now())
    with parent.store.transaction() as session:
        row = session.get(UpdateRow, sent.digest)
        assert row is not None
        row.state = "quarantined"
    with pytest.raises(BadData, match="needs its reason"):
        decide(parent, sent.digest, "accepted", " \n", utc_now())
    with pytest.raises(BadData, match="its receiver decides"):
        decide(child, sent.digest, "accepted", "trust me", utc_now())
    found = decide(parent, sent.digest, "accepted", "seen by hand", utc_now())
    assert found.verdict is not None
    assert (found.summary.state, found.verdict.outcome) == ("accepted", "accepted")
    assert ("person", True, "seen by hand") in [(check.name, check.passed, check.reason) for check in found.checks]
