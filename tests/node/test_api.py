from __future__ import annotations

import hashlib
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.api import server as api_server
from node.api.app import create_app
from node.api.rates import Rates
from node.context import Node
from registry.documents import Release, open_document
from registry.tables import DecisionRow, ReleaseRow
from tests.world import BASE_FILES, make_node, put, put_base, put_enrolment, put_release, put_tree

ADAPTER = bytes(range(256)) * 5000


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = make_node(tmp_path / "home", "en", "en/finance", name="the root")
    yield node
    node.close()


@pytest.fixture
def url(node: Node, serve: Callable) -> str:
    return serve(create_app(node))


def words(reply: httpx.Response) -> tuple[str, str]:
    """Message and code of an error, which has this form and no other."""
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "hint", "code", "type", "param"}
    assert "Traceback" not in reply.text
    assert str(Path.home()) not in reply.text
    return body["error"]["message"], body["error"]["code"]


def test_a_node_says_who_it_is(node: Node, url: str) -> None:
    said = httpx.get(f"{url}/v1/node").json()
    assert said == {
        "key": node.key.public.hex,
        "name": "the root",
        "paths": ["en", "en/finance"],
        "version": said["version"],
    }
    assert httpx.get(f"{url}/health").json() == {"status": "ok", "heads": 0}


def test_releases_are_served_as_they_were_signed(node: Node, url: str) -> None:
    pins = put_tree(node, "en", "en/finance", adapters={"en": ADAPTER})
    assert httpx.get(f"{url}/v1/heads").json() == [pins["en"].model_dump(), pins["en/finance"].model_dump()]
    reply = httpx.get(f"{url}/v1/releases/{pins['en'].digest}")
    assert reply.headers["content-type"] == "application/vnd.dsse.envelope.v1+json"
    release, opened = open_document(reply.content, Release, [node.key.public])
    assert (opened.digest, release.path) == (pins["en"].digest, "en")
    listed = httpx.get(f"{url}/v1/releases", params={"path": "en", "version": 1}).json()
    assert listed == [{**pins["en"].model_dump(), "signer": node.key.public.id}]
    assert httpx.get(f"{url}/v1/releases", params={"path": "en", "version": 2}).json() == []


def test_what_was_trained_here_is_shared_only_with_those_enrolled_below(node: Node, url: str) -> None:
    pin = put_release(node, "en", put_base(node), adapter=ADAPTER)
    adapter = f"{url}/v1/blobs/{hashlib.sha256(ADAPTER).hexdigest()}"
    for place in (f"{url}/v1/releases/{pin.digest}", adapter):
        assert httpx.get(place).status_code == 404
    assert httpx.get(f"{url}/v1/heads").json() == []
    assert httpx.get(f"{url}/v1/releases", params={"path": "en"}).json() == []
    put_enrolment(node, "de/home")
    assert httpx.get(adapter).status_code == 404
    put_enrolment(node, "en/finance")
    assert httpx.get(adapter).content == ADAPTER
    assert httpx.get(f"{url}/v1/heads").json() == [pin.model_dump()]


def test_files_of_releases_come_whole_or_from_a_byte_on(node: Node, url: str) -> None:
    put_tree(node, "en", adapters={"en": ADAPTER})
    place = f"{url}/v1/blobs/{hashlib.sha256(ADAPTER).hexdigest()}"
    assert httpx.get(place).content == ADAPTER
    part = httpx.get(place, headers={"Range": "bytes=1000000-"})
    assert (part.status_code, part.content) == (206, ADAPTER[1_000_000:])
    assert part.headers["content-range"] == f"bytes 1000000-{len(ADAPTER) - 1}/{len(ADAPTER)}"
    assert httpx.get(place, headers={"Range": f"bytes={len(ADAPTER)}-"}).status_code == 416
    several = httpx.get(place, headers={"Range": "bytes=0-1,3-4,6-7"})
    assert several.status_code == 206
    assert several.headers["content-type"].startswith("multipart/byteranges; boundary=")
    assert len(several.content) == int(several.headers["content-length"]) < 1000
    assert [ADAPTER[at : at + 2] + b"\r\n--" in several.content for at in (0, 3, 6)] == [True] * 3
    often = httpx.get(place, headers={"Range": "bytes=" + ",".join(["0-"] * 100)})
    assert (often.status_code, len(often.content) - len(ADAPTER) < 1000) == (206, True)  # no more than once
    assert len(several.content) <= len(ADAPTER)


def test_only_what_releases_name_is_public(node: Node, url: str) -> None:
    """K7, H5."""
    put_tree(node, "en", adapters={"en": ADAPTER})
    secret = put(node, "transfer.jsonl", b'{"input":"a patient","output":"a diagnosis"}\n')
    for digest in (secret.sha256, "0" * 64, "..", "%2e%2e%2fkeys%2fnode.pem", "A" * 64, "x" * 5000):
        reply = httpx.get(f"{url}/v1/blobs/{digest}")
        assert reply.status_code == 404, digest
        words(reply)
    for data in BASE_FILES.values():
        assert httpx.get(f"{url}/v1/blobs/{hashlib.sha256(data).hexdigest()}").content == data
    key = httpx.get(f"{url}/v1/blobs/{node.key.public.id}")
    assert key.content == node.key.public.raw


def test_a_release_that_comes_while_serving_is_found(node: Node, url: str) -> None:
    missing = f"{url}/v1/blobs/{hashlib.sha256(ADAPTER).hexdigest()}"
    assert httpx.get(missing).status_code == 404
    put_tree(node, "en", adapters={"en": ADAPTER})
    assert httpx.get(missing).status_code == 200


@pytest.mark.parametrize(
    ("method", "place", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/heads/", 404),
        ("POST", "/v1/heads", 405),
        ("GET", "/v1/releases", 400),
        ("GET", "/v1/releases?path=EN", 400),
        ("GET", "/v1/releases?path=en&version=0", 400),
        ("GET", "/v1/releases?path=en&version=x", 400),
        ("GET", "/v1/releases?path=" + "x" * 300, 400),
        ("GET", "/v1/releases/" + "0" * 64, 404),
        ("GET", "/v1/releases/%00", 404),
        ("GET", "/v1/enrolments/" + "0" * 64 + "?path=en", 404),
        ("GET", "/v1/enrolments/" + "0" * 64, 400),
        ("GET", "/v1/updates/" + "0" * 64, 404),
        ("GET", "/v1/updates/x", 404),
        ("HEAD", "/v1/updates/" + "0" * 64 + "/files/" + "0" * 64, 404),
        ("PUT", "/v1/updates/" + "0" * 64 + "/files/" + "0" * 64, 400),
        ("POST", "/v1/updates", 400),
        ("POST", "/v1/enrolments", 400),
    ],
)
def test_every_no_has_one_form(url: str, method: str, place: str, status: int) -> None:
    """H1, H2."""
    reply = httpx.request(method, url + place)
    assert reply.status_code == status
    if method != "HEAD":
        message, code = words(reply)
        assert message
        assert code


def test_a_put_without_update_is_refused_whatever_its_offset(url: str) -> None:
    place = f"{url}/v1/updates/{'0' * 64}/files/{'0' * 64}"
    assert httpx.put(place, content=b"x", headers={"Upload-Offset": "0"}).status_code == 404
    for offset in ("-1", "x", "1e3", str(2**63), "9" * 40):
        assert httpx.put(place, content=b"x", headers={"Upload-Offset": offset}).status_code == 400


def raw(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def head(place: str, *headers: str) -> bytes:
    return "\r\n".join([f"POST {place} HTTP/1.1", "Host: x", *headers]).encode() + b"\r\n\r\n"


@pytest.mark.parametrize(("place", "limit"), [("/v1/enrolments", 16 << 10), ("/v1/updates", 1 << 20)])
def test_bodies_are_refused_by_what_they_declare_and_while_they_come(url: str, place: str, limit: int) -> None:
    """H6."""
    with raw(url) as connection:  # declared: not a byte of the body is waited for
        connection.sendall(head(place, f"Content-Length: {limit + 1}"))
        assert b" 413 " in connection.recv(1000)
    with raw(url) as connection:
        connection.sendall(head(place, "Transfer-Encoding: chunked"))
        for _ in range(limit // 4096 + 1):
            connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        assert b" 413 " in connection.recv(1000)


@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "Content-Length: 1000000000000"])
def test_a_body_that_goes_on_after_its_answer_is_not_read_on(url: str, framing: str) -> None:
    """H6: the sender has some megabytes in the buffers of both sides when it learns."""
    chunk, sent = b"100000\r\n" + bytes(1 << 20) + b"\r\n", 0
    with raw(url) as connection:
        connection.sendall(head("/v1/updates", framing))
        with pytest.raises(OSError, match=r"reset|pipe"):
            while sent < 1 << 30:
                sent += connection.send(chunk)
    assert sent < 64 << 20
    assert httpx.get(f"{url}/health").status_code == 200


def test_a_body_that_does_not_come_ends_at_the_limit(
    node: Node, serve: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.api.bodies.BODY_S", 0.3)
    with raw(serve(create_app(node))) as connection:
        connection.sendall(head("/v1/updates", "Content-Length: 100") + b"slow")
        answer = HTTPResponse(connection)  # waits for the body, which may come after the head
        answer.begin()
        assert (answer.status, b'"code":"too_slow"' in answer.read()) == (408, True)


@pytest.mark.parametrize("opening", [b"", b"GET /health HTTP/1.1\r\nX-A: "])
def test_a_request_head_that_does_not_come_ends_at_the_limit(
    node: Node, serve: Callable, monkeypatch: pytest.MonkeyPatch, opening: bytes
) -> None:
    """H7."""
    monkeypatch.setattr(api_server.PunctualProtocol, "head_s", 0.4)
    url = serve(create_app(node))
    with raw(url) as connection:
        connection.sendall(opening)
        ended = threading.Event()

        def drip() -> None:
            while not ended.wait(0.1):
                try:
                    connection.sendall(b"a" if opening else b"")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert connection.recv(1000) == b""
        except ConnectionResetError:
            pass
        finally:
            ended.set()
            dripping.join()
    assert httpx.get(f"{url}/health").status_code == 200


def test_a_server_says_that_it_listens_when_it_does(node: Node) -> None:
    server = api_server.make_server(create_app(node), "127.0.0.1", 0)
    reached: list[bool] = []

    def on_listening() -> None:
        address = server.servers[0].sockets[0].getsockname()
        with socket.create_connection(address, timeout=10):
            reached.append(True)
        server.should_exit = True

    server.on_listening = on_listening
    server.run()
    assert reached == [True]


def test_an_idle_connection_is_kept_for_longer_than_clients_of_httpx_keep_it(node: Node) -> None:
    """Else the server ends connections at the moment when the client sends on them."""
    config = api_server.make_server(create_app(node), "127.0.0.1", 0).config
    assert config.timeout_keep_alive > (httpx.Limits().keepalive_expiry or math.inf)


def test_an_address_that_asks_too_much_waits(node: Node, serve: Callable) -> None:
    """H8."""
    url = serve(create_app(node, rates=Rates(requests_per_s=0.001, burst=3)))
    replies = [httpx.get(f"{url}/health") for _ in range(5)]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429, 429]
    assert words(replies[-1])[1] == "too_many_requests"
    assert replies[-1].headers["retry-after"] == "1"


def test_an_address_has_so_many_requests_at_a_time(node: Node, serve: Callable) -> None:
    url = serve(create_app(node, rates=Rates(at_a_time=2)))
    waiting = [raw(url) for _ in range(2)]
    try:
        for connection in waiting:
            connection.sendall(head("/v1/updates", "Content-Length: 100"))
        deadline = time.monotonic() + 20
        while httpx.get(f"{url}/health").status_code != 429:
            assert time.monotonic() < deadline
    finally:
        for connection in waiting:
            connection.close()
    while httpx.get(f"{url}/health").status_code != 200:
        assert time.monotonic() < deadline


def test_what_breaks_inside_stays_inside(node: Node, serve: Callable, caplog: pytest.LogCaptureFixture) -> None:
    pins = put_tree(node, "en")
    url = serve(create_app(node))
    with node.store.read() as session:
        release = session.get(ReleaseRow, pins["en"].digest)
        assert release is not None
    node.blobs.path(release.base).write_bytes(b"damaged")
    reply = httpx.get(f"{url}/v1/blobs/{release.base}")
    assert reply.status_code == 404
    words(reply)
    node.store.close()
    node.home.database.rename(node.home.database.with_suffix(".gone"))
    node.home.database.mkdir()
    reply = httpx.get(f"{url}/v1/releases/{pins['en'].digest}")
    assert reply.status_code == 503
    assert words(reply) == ("this node cannot do that now", "unavailable")


def test_a_mistake_of_ours_tells_the_asker_nothing(
    node: Node, serve: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H4."""
    monkeypatch.setattr("node.api.updates.receipt_of", lambda *args: 1 / 0)
    reply = httpx.get(f"{serve(create_app(node))}/v1/updates/{'0' * 64}")
    assert reply.status_code == 500
    assert words(reply) == ("this node made a mistake", "bug")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=300)
    | st.text(max_size=200).map(str.encode)
    | st.just(b'{"payload":"","payloadType":"","signatures":[]}')
)
def test_no_body_breaks_the_inbox_or_the_enrolments(node: Node, url: str, body: bytes) -> None:
    for place in ("/v1/updates", "/v1/enrolments"):
        reply = httpx.post(url + place, content=body)
        assert reply.status_code == 400
        words(reply)


def test_nothing_that_was_refused_is_stored(node: Node, url: str) -> None:
    for body in (b"", b"{}", json.dumps({"payload": "eA==", "payloadType": "x", "signatures": []}).encode()):
        httpx.post(f"{url}/v1/updates", content=body)
        httpx.post(f"{url}/v1/enrolments", content=body)
    with node.store.read() as session:
        assert session.query(DecisionRow).count() == 0
    assert not list(node.home.partial.iterdir())
