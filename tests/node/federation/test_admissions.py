"""Who is let in to a SuperLink, and what of it can be reached."""

from __future__ import annotations

import base64
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from node.api.app import create_app
from node.api.fleet import fleet_app
from node.context import Node
from node.federation.admissions import Admissions
from node.federation.certificates import as_pem, make_certificate, make_supernode_key, only
from node.federation.joining import invited
from node.federation.places import invitation_of, places_of, superlink_of
from node.federation.processes import flower_process
from registry.documents import seal_document
from registry.errors import BadData, LocalFailure
from registry.keys import PrivateKey
from registry.rounds import Admission, Invitation
from registry.store import select
from registry.tables import EnrolmentRow
from tests.toy_tree import Child, enrol
from tests.world import make_node, utc_now


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Node]:
    with closing(make_node(tmp_path / "home", "en")) as node:
        yield node


@pytest.fixture
def child(parent: Node) -> Child:
    return enrol(parent, "en/health")


def asking(child: Child, supernode: str, key: PrivateKey | None = None, **changes: Any) -> bytes:
    now = utc_now()
    fields: dict[str, Any] = {
        "issuer": child.key.public.id,
        "created": now,
        "expires": now + timedelta(days=1),
        "path": child.path,
        "audience": child.parent.key.public.id,
        "supernode": supernode,
    }
    return seal_document(Admission(**(fields | changes)), key or child.key)


class Front:
    """The application before a SuperLink that answers every call with its path."""

    def __init__(self, node: Node, serve: Callable[[FastAPI], str]) -> None:
        self.registered: list[bytes] = []
        self.calls: list[str] = []
        self.now = utc_now()
        admissions = Admissions(node, self.register, lambda: self.now)
        inner = httpx.Client(base_url="https://inner", transport=httpx.MockTransport(self.answer))
        self.client = httpx.Client(base_url=serve(fleet_app(admissions, inner)), trust_env=False)

    def register(self, pem: bytes) -> int:
        self.registered.append(pem)
        return len(self.registered)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(request.url.raw_path.decode())
        return httpx.Response(200, content=request.content, headers={"content-type": "application/protobuf"})

    def call(self, pem: bytes, path: str = "/v1/fleet/pull-messages") -> int:
        key = base64.b64encode(pem).decode()
        target = {"target": path.encode()}  # as it stands: httpx would tidy it up
        return self.client.post("/", content=b"x", headers={"flwr-public-key": key}, extensions=target).status_code


@pytest.fixture
def front(parent: Node, serve: Callable[[FastAPI], str]) -> Iterator[Front]:
    made = Front(parent, serve)
    with made.client:
        yield made


def test_a_supernode_is_passed_on_once_its_node_was_let_in(front: Front, child: Child, tmp_path: Path) -> None:
    """J10: and not after its enrolment or its admission has ended."""
    public = make_supernode_key(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    pem = as_pem(public)
    assert front.call(pem) == 403
    assert front.client.post("/v1/admission", content=asking(child, public)).json() == {"path": "en/health"}
    assert front.registered == [pem]
    assert front.call(pem) == 200
    assert front.calls == ["/v1/fleet/pull-messages"]
    front.now += timedelta(days=2)
    assert front.call(pem) == 403
    front.now -= timedelta(days=2)
    with child.parent.store.transaction() as session:
        row = session.scalars(select(EnrolmentRow)).one()
        row.state = "revoked"
    assert front.call(pem) == 403
    assert front.client.post("/v1/admission", content=asking(child, public)).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/%2e%2e%2fcontrol%2fstart-run",
        "/v1/fleet/Start.Run",
        "/docs",
    ],
)
def test_nothing_else_of_a_superlink_can_be_reached(path: str, front: Front, child: Child, tmp_path: Path) -> None:
    """J10."""
    public = make_supernode_key(tmp_path / "key")
    front.client.post("/v1/admission", content=asking(child, public))
    assert front.call(as_pem(public), path) == 404
    assert front.calls == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"audience": "0" * 64}, "another node"),
        ({"path": "en/law"}, "may not speak for en/law"),
        ({"created": utc_now() - timedelta(days=9), "expires": utc_now() - timedelta(days=8)}, "not of this time"),
        ({"supernode": "ecdsa-sha2-nistp384 AAAA"}, "not the public key"),
        ({"key": PrivateKey.generate()}, "the signature|may not sign|unknown here"),
    ],
)
def test_an_admission_that_is_not_right_is_refused(
    changes: dict[str, Any], reason: str, front: Front, child: Child, tmp_path: Path
) -> None:
    """J10."""
    fields = {"supernode": make_supernode_key(tmp_path / "key"), **changes}
    answer = front.client.post("/v1/admission", content=asking(child, **fields))
    assert answer.status_code in (400, 403)
    assert any(word in answer.text for word in reason.split("|")), answer.text
    assert front.registered == []


def test_an_invitation_is_told_while_it_holds_and_believed_from_the_parent_alone(
    parent: Node, tmp_path: Path, serve: Callable[[FastAPI], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """J9."""
    with httpx.Client(base_url=serve(create_app(parent)), trust_env=False) as interface:
        assert interface.get("/v1/rounds").status_code == 404
        now = utc_now()
        certificate = make_certificate(tmp_path, "children", ["127.0.0.1", "hub.example"], now)
        assert only(certificate.pem).get_ca_certs()[0]["subjectAltName"] == (
            ("IP Address", "127.0.0.1"),
            ("DNS", "hub.example"),
        )
        invitation = Invitation(
            issuer=parent.key.public.id,
            created=now,
            expires=now + timedelta(days=7),
            path="en",
            address="127.0.0.1:8430",
            certificate=certificate.pem,
        )
        places_of(parent).parent.mkdir(parents=True)
        places_of(parent).invitation.write_bytes(seal_document(invitation, parent.key))
        envelope = interface.get("/v1/rounds").content
    assert invitation_of(parent, now + timedelta(days=8)) is None

    class Told:
        def get(self, path: str, max_bytes: int) -> bytes:
            assert (path, max_bytes) == ("/v1/rounds", 1 << 20)
            return envelope

    class Row:
        url, public_key = "http://parent", parent.key.public.hex

    monkeypatch.setattr("node.federation.joining.parent_of", lambda node: Row)
    asker = replace(parent)
    monkeypatch.setattr(Node, "peer", lambda node, url: Told())
    assert invited(asker, now) == (invitation, parent.key.public)
    with pytest.raises(BadData, match="expired"):
        invited(asker, now + timedelta(days=8))
    Row.public_key = PrivateKey.generate().public.hex
    with pytest.raises(BadData, match="may not sign"):
        invited(asker, now)


def test_what_is_missing_is_said(parent: Node, tmp_path: Path) -> None:
    with pytest.raises(LocalFailure, match="no rounds are served here"):
        superlink_of(parent)
    with pytest.raises(LocalFailure, match="is not installed here"), flower_process("flower-none", [], 1, tmp_path):
        pass
    with (
        pytest.raises(LocalFailure, match="flower-superlink ended with"),
        flower_process("flower-superlink", ["--no-such-option"], 1, tmp_path),
    ):
        pass
