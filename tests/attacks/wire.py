"""Attacks on the HTTP interface of a parent: heads, bodies, ranges and places that no client of ours would send."""

from __future__ import annotations

import gzip
import hashlib
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from node.api import server as api_server
from node.api.app import create_app
from node.api.rates import Rates
from registry.store import select
from registry.tables import ReleaseRow
from tests.attacks.adapters import declared
from tests.attacks.scene import Attack, Scene

MIB = 1 << 20
SECRET = "PRIVATE KEY"


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        yield connection


def all_of(connection: socket.socket) -> str:
    """Everything until the server closes, at most 4 MiB."""
    answer = b""
    with suppress(OSError):
        while len(answer) < 4 * MIB and (piece := connection.recv(1 << 16)):
            answer += piece
    return answer.decode("latin-1") or "closed without a word"


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    return (
        "\r\n".join([f"{line} HTTP/1.1", "Host: x", "Connection: close", *headers]).encode("latin-1")
        + b"\r\n\r\n"
        + body
    )


def sends(*pieces: bytes) -> Callable[[Scene], str]:
    """Say this to a server; what it answers until it closes."""

    def does(scene: Scene) -> str:
        with connected(scene.serve(create_app(scene.node))) as connection:
            with suppress(OSError):  # a server may close before it has read everything
                for piece in pieces:
                    connection.sendall(piece)
            return all_of(connection)

    return does


def asks(line: str, *headers: str, body: bytes = b"") -> Callable[[Scene], str]:
    return sends(request(line, *headers, body=body))


def in_turn(scene: Scene, *requests: bytes) -> list[str]:
    """One connection for each request, to one server."""
    url = scene.serve(create_app(scene.node))
    answers = []
    for one in requests:
        with connected(url) as connection:
            with suppress(OSError):
                connection.sendall(one)
            answers.append(all_of(connection))
    return answers


def slow_head(scene: Scene) -> str:
    """A head that never ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api_server.PunctualProtocol, "head_s", 0.3)
        with connected(scene.serve(create_app(scene.node))) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nX: ")
            return all_of(connection)


@contextmanager
def impatient() -> Iterator[None]:
    """A server that waits a moment for a body, and not a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("node.api.bodies.BODY_S", 0.3)
        yield


def slow_upload(scene: Scene) -> str:
    """A piece of a file of which one byte comes; the same piece, sent whole, is taken afterwards."""
    digest = scene.offer(scene.sealed(adapter=declared(scene.fresh)))
    place = f"PUT /v1/updates/{digest}/files/{hashlib.sha256(scene.fresh).hexdigest()}"
    head = request(place, "Upload-Offset: 0", f"Content-Length: {len(scene.fresh)}")
    with impatient():
        said, whole = in_turn(scene, head + b"x", head + scene.fresh)
    assert " 204 " in whole
    decided = scene.decided(digest)
    assert decided.startswith("accepted"), decided
    return said


def slow_chunk(scene: Scene) -> str:
    """A chunk of more bytes than there are."""
    with impatient():
        return asks(UPDATES, CHUNKED, body=b"1" + b"0" * 16 + b"\r\nx")(scene)


def piece(size: int, offset: str) -> Callable[[Scene], str]:
    """A piece of a file of the child's update."""

    def does(scene: Scene) -> str:
        digest = scene.offer(scene.sealed(adapter=declared(scene.fresh)))
        place = f"PUT /v1/updates/{digest}/files/{hashlib.sha256(scene.fresh).hexdigest()}"
        head = request(place, f"Upload-Offset: {offset}", f"Content-Length: {size}", body=bytes(size))
        return sends(head)(scene)

    return does


def ranges(text: str) -> Callable[[Scene], str]:
    """Ask for a file in ranges; how much of it comes."""

    def does(scene: Scene) -> str:
        with scene.node.store.read() as session:
            row = session.scalars(select(ReleaseRow).where(ReleaseRow.own)).first()
        assert row is not None
        size = scene.node.blobs.path(row.base).stat().st_size
        (answer,) = in_turn(scene, request(f"GET /v1/blobs/{row.base}", f"Range: {text}"))
        more = len(answer) - size
        return f"{answer.split(chr(13))[0]}, {'at most 1 KiB more than' if more <= 1024 else 'more than'} the file"

    return does


def other_host(*headers: str) -> Callable[[Scene], str]:
    """The same question under another host's name gets the same answer."""

    def does(scene: Scene) -> str:
        plain, lied = in_turn(
            scene,
            request("GET /v1/heads"),
            request("GET /v1/heads", *headers).replace(
                b"Host: x\r\n", b"" if headers[0].startswith("Host") else b"Host: x\r\n"
            ),
        )
        bodies = {answer.partition("\r\n\r\n")[2] for answer in (plain, lied)}
        return f"{lied.split(chr(13))[0]}, {len(bodies)} answer" + (", names evil" if "evil" in lied else "")

    return does


def flood(scene: Scene) -> str:
    url = scene.serve(create_app(scene.node, rates=Rates(requests_per_s=0.001, burst=5)))
    said = ""
    for _ in range(7):
        with connected(url) as connection:
            connection.sendall(request("GET /health"))
            said = all_of(connection)
    return said


def a_tls_greeting() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="x")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


UPDATES, BLOBS = "POST /v1/updates", "GET /v1/blobs"
CHUNKED = "Transfer-Encoding: chunked"
CHUNK = b"10000\r\n" + b"x" * 65536 + b"\r\n"
NO = r"HTTP/1\.1 4\d\d|closed without a word"

WIRE = (
    Attack("a head of 100 KiB", "H7", asks("GET /health", "X: " + "x" * 100_000), NO),
    Attack("10,000 header fields", "H7", asks("GET /health", *["X: y"] * 10_000), NO),
    Attack("a request line of 1 MiB", "H7", asks("GET /" + "x" * MIB), NO),
    Attack(
        "a field that goes on in the next line",
        "H7",
        sends(b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\r\n" + b" b\r\n" * 9999),
        NO,
    ),
    Attack("a head that never ends", "H7", slow_head, "closed without a word"),
    Attack("a piece of a file, byte by byte", "H6", slow_upload, "HTTP/1.1 408 .*too_slow"),
    Attack("a body of 10 GB, declared", "H6", asks(UPDATES, f"Content-Length: {10**10}"), "HTTP/1.1 413 .*too_large"),
    Attack(
        "a body without end", "H6", sends(request(UPDATES, CHUNKED), *[CHUNK] * 40), "HTTP/1.1 413 .*too_large|closed"
    ),
    Attack("a body of -5 bytes", "H6", asks(UPDATES, "Content-Length: -5"), NO),
    Attack("a body of 2^80 bytes", "H6", asks(UPDATES, f"Content-Length: {2**80}"), NO),
    Attack(
        "two lengths of one body", "H6", asks(UPDATES, "Content-Length: 5", "Content-Length: 6", body=b"hello!"), NO
    ),
    Attack(
        "a request inside a request",
        "H6",
        asks(UPDATES, "Content-Length: 5", CHUNKED, body=b"0\r\n\r\nGET /health HTTP/1.1\r\n\r\n"),
        NO,
    ),
    Attack("a chunk of 2^64 bytes", "H6", slow_chunk, "HTTP/1.1 (408|413|400) "),
    Attack("a chunk whose length never ends", "H6", sends(request(UPDATES, CHUNKED), b"0" * 300_000), NO),
    Attack(
        "a compressed body",
        "E3",
        asks(
            UPDATES,
            "Content-Encoding: gzip",
            f"Content-Length: {len(gzip.compress(bytes(MIB)))}",
            body=gzip.compress(bytes(MIB)),
        ),
        "HTTP/1.1 400 .*bad_data",
    ),
    Attack(
        "a form with a file",
        "E3",
        asks(UPDATES, "Content-Type: multipart/form-data; boundary=x", "Content-Length: 5", body=b"--x--"),
        "HTTP/1.1 400 ",
    ),
    Attack("a piece of 4 MiB and a byte", "H6", piece(4 * MIB + 1, "0"), "HTTP/1.1 413 "),
    Attack("a piece beyond the end", "T4", piece(10, "1000"), "HTTP/1.1 409 .*conflict"),
    Attack("a piece at -1", "T4", piece(10, "-1"), "HTTP/1.1 400 "),
    Attack("a piece at 1e3", "T4", piece(10, "1e3"), "HTTP/1.1 400 "),
    Attack("a thousand ranges", "T9", ranges("bytes=" + ",".join(["0-"] * 1000)), "at most 1 KiB more"),
    Attack(
        "ranges of ever more zeros",
        "T9",
        ranges("bytes=" + ",".join(f"{'0' * n}0-1" for n in range(150))),
        "at most 1 KiB more",
    ),
    Attack("a range of a million letters", "H7", asks(f"{BLOBS}/{'0' * 64}", "Range: bytes=" + "9" * 1_000_000), NO),
    Attack("a range that ends before it begins", "T3", ranges("bytes=9-1"), "HTTP/1.1 (200|400|416).*at most"),
    Attack("another host's name", "H1", other_host("Host: evil.example"), "^HTTP/1.1 200 OK, 1 answer$"),
    Attack(
        "another host's name, forwarded",
        "H1",
        other_host("X-Forwarded-Host: evil.example", "Forwarded: host=evil"),
        "^HTTP/1.1 200 OK, 1 answer$",
    ),
    Attack("two hosts", "H1", asks("GET /v1/heads", "Host: evil.example"), NO),
    Attack("a place that climbs", "H5", asks(f"{BLOBS}/..%2f..%2fkeys%2fnode.pem"), "HTTP/1.1 404 "),
    Attack("a place that climbs in the open", "H5", asks(f"{BLOBS}/../../keys/node.pem"), "HTTP/1.1 404 "),
    Attack("a place with NUL", "H5", asks(f"{BLOBS}/%00"), "HTTP/1.1 404 "),
    Attack("a place that is an address", "H5", asks("GET http://169.254.169.254/latest/meta-data"), NO),
    Attack("a method that nobody knows", "H2", asks("BREW /v1/updates"), "HTTP/1.1 405 "),
    Attack("a method in a header", "H2", asks("GET /v1/updates", "X-HTTP-Method-Override: POST"), "HTTP/1.1 405 "),
    Attack("a tunnel to elsewhere", "H2", asks("CONNECT 127.0.0.1:22"), NO),
    Attack("TLS where none is spoken", "H7", sends(a_tls_greeting()), NO),
    Attack("bytes that are no HTTP", "H7", sends(bytes(range(256)) * 100), NO),
    Attack("more requests than an address may", "H8", flood, "HTTP/1.1 429 .*too_many_requests"),
)
