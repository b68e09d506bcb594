from __future__ import annotations

import gzip
import json
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from registry.errors import BadData, LocalFailure
from sync.transport import Broken, HttpTransport, Refused

Answering = Callable[[Callable[[socket.socket], None]], str]


def transport(**options: object) -> HttpTransport:
    return HttpTransport(allow_private=True, **options)


def head_of(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    return received


def says(answer: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(answer)
        connection.close()

    return talk


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(url: str, max_bytes: int = 1000, timeout_s: float = 5.0) -> bytes:
    return transport().get(url, max_bytes=max_bytes, timeout_s=timeout_s)


def test_an_answer_comes_whole(answering: Answering) -> None:
    assert get(answering(says(http(b"hello")))) == b"hello"


def test_a_request_says_nothing_of_this_machine(answering: Answering) -> None:
    heads: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        heads.append(head_of(connection))
        connection.sendall(http(b""))
        connection.close()

    url = answering(talk)
    get(url + "/v1/heads")
    assert heads[0].decode().lower().split("\r\n") == [
        "get /v1/heads http/1.1",
        f"host: {url.removeprefix('http://')}",
        "accept: */*",
        "user-agent: banyan",
        "accept-encoding: identity",
        "connection: close",
        "",
        "",
    ]


def test_a_peer_that_is_down_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1/heads"
    with pytest.raises(Broken, match="cannot be reached") as caught:
        get(url)
    assert url in caught.value.message
    assert caught.value.hint


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(LocalFailure, match=r"no-such-host\.invalid is not known"):
        get("http://no-such-host.invalid/")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "127.0.0.1", "http://[::1/", "http:///x"])
def test_what_is_no_web_address(url: str) -> None:
    with pytest.raises(BadData, match="not a web address"):
        get(url)


def test_a_peer_that_never_answers_ends_at_the_limit(answering: Answering) -> None:
    url = answering(lambda connection: None)
    started = time.monotonic()
    with pytest.raises(LocalFailure, match=r"longer than the limit of 0\.3 s"):
        get(url, timeout_s=0.3)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "opening", [b"", b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"]
)
def test_a_peer_that_sends_a_byte_now_and_then_ends_at_the_limit(answering: Answering, opening: bytes) -> None:
    """T6."""

    def drip(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(opening)
        for _ in range(200):
            connection.sendall(b"a")
            time.sleep(0.05)

    started = time.monotonic()
    with pytest.raises(LocalFailure, match=r"limit of 0\.4 s"):
        get(answering(drip), timeout_s=0.4)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "answer",
    [
        http(b"x" * 1001),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001,
    ],
)
def test_more_bytes_than_allowed_are_refused(answering: Answering, answer: bytes) -> None:
    """H10."""
    with pytest.raises(BadData, match="more than 1000 bytes"):
        get(answering(says(answer)))


def test_a_compressed_answer_is_refused(answering: Answering) -> None:
    """T7."""
    bomb = gzip.compress(b"\0" * 10_000_000)[:900]
    with pytest.raises(BadData, match="compressed"):
        get(answering(says(http(bomb, "200 OK", "Content-Encoding: gzip"))))


def test_redirects_are_not_followed(answering: Answering) -> None:
    """T7."""
    with pytest.raises(BadData, match="redirect"):
        get(answering(says(http(b"", "302 Found", "Location: http://127.0.0.1:1/"))))


@pytest.mark.parametrize("garbage", [b"\x00\xff" * 50, b"SSH-2.0-OpenSSH_9.9\r\n", b""])
def test_what_is_not_http(answering: Answering, garbage: bytes) -> None:
    with pytest.raises(Broken, match=r"does not speak HTTP|cannot be reached"):
        get(answering(says(garbage)))


def test_a_truncated_answer_is_a_broken_connection(answering: Answering) -> None:
    with pytest.raises(Broken):
        get(answering(says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")))


def test_a_no_comes_with_the_peers_words_made_safe_to_print(answering: Answering) -> None:
    body = json.dumps({"error": {"message": "not\x1b[31m yours", "hint": "ask", "code": "forbidden"}}).encode()
    with pytest.raises(Refused, match=r"refused \(403\): not \[31m yours") as caught:
        get(answering(says(http(body, "403 Forbidden"))))
    assert (caught.value.status, caught.value.code, caught.value.hint) == (403, "forbidden", "ask")


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[1]", b'{"error": 7}', b'{"error": {"message": {"a": 1}}}', b"[" * 9999]
)
def test_a_no_in_a_foreign_form(answering: Answering, body: bytes) -> None:
    with pytest.raises(Refused, match=r"refused \(404\)"):
        get(answering(says(http(body, "404 Not Found"))))


@pytest.mark.parametrize("status", ["503 Unavailable", "429 Too Many", "500 Oops"])
def test_a_peer_in_trouble_is_no_bad_data(answering: Answering, status: str) -> None:
    with pytest.raises(LocalFailure, match="could not answer"):
        get(answering(says(http(b"", status))))


def test_a_connection_that_breaks_once_is_tried_again(answering: Answering) -> None:
    """T8."""
    answers = [b"", http(b"second")]

    def talk(connection: socket.socket) -> None:
        says(answers.pop(0))(connection)

    url = answering(talk)
    assert get(url) == b"second"
    assert answers == []


def test_addresses_that_a_peer_named_are_not_contacted_on_this_machine(answering: Answering) -> None:
    url = answering(says(http(b"secret")))
    public_only = HttpTransport(allow_private=False)
    with pytest.raises(BadData, match="private network"):
        public_only.get(url, max_bytes=10, timeout_s=1)
    with pytest.raises(BadData, match="private network"):
        public_only.get(url.replace("127.0.0.1", "localhost"), max_bytes=10, timeout_s=1)


def test_a_range_that_is_not_the_one_asked_for_is_refused(answering: Answering) -> None:
    """T3."""
    for answer in (http(b"all of it"), http(b"x", "206 Partial Content", "Content-Range: bytes 3-3/9")):
        with pytest.raises(BadData, match="part that was asked for"):
            list(transport().get_range(answering(says(answer)), 4, max_bytes=100, timeout_s=5))


def test_an_upload_offset_must_be_a_number(answering: Answering) -> None:
    for value in ("", "-1", "1e9", "9" * 30, "٣"):
        url = answering(says(http(b"", "204 No Content", f"Upload-Offset: {value}").decode("utf-8").encode("utf-8")))
        with pytest.raises((BadData, Broken)):
            transport().offset(url, timeout_s=5)


def certificate(folder: Path) -> Path:
    """A key and a certificate for the name localhost, signed by itself, in one file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(Encoding.PEM)
    (folder / "localhost.pem").write_bytes(pem)
    return folder / "localhost.pem"


def test_https_goes_to_the_checked_address_under_the_name_that_was_asked_for(
    answering: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = certificate(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)

    def talk(connection: socket.socket) -> None:
        with server.wrap_socket(connection.dup(), server_side=True) as secured:
            head_of(secured)
            secured.sendall(http(b"in secret"))

    url = answering(talk).replace("http://127.0.0.1", "https://localhost")
    with pytest.raises(Broken, match="certificate verify failed"):
        get(url)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert get(url) == b"in secret"
    with pytest.raises(Broken, match="certificate verify failed"):
        get(url.replace("localhost", "127.0.0.1"))
