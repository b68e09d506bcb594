from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry.errors import BadData, BanyanError, LocalFailure
from sync.address import Address, Reach, read_networks, read_node_url, read_url, refusal, resolve
from sync.transport import HttpTransport

TYPED, STRANGER = Reach(typed=True), Reach()


def words(text: str) -> list[str]:
    return text.split()


NO_ADDRESS = """
ftp://example.org | gopher://example.org/_x | file:///etc/passwd | javascript:alert(1) | example.org | //example.org
http:// | http:///x | http://:80 | https://user@example.org | https://user:secret@example.org | http://@127.0.0.1
http://a@b@c | http://example.org\\@127.0.0.1 | http://exa mple.org | http://example.org:80:80 | http://example.org:x
http://example.org:-1 | http://example.org:0 | http://example.org:65536 | http://example.org:999999
http://2130706433 | http://0x7f000001 | http://017700000001 | http://127.1 | http://0177.0.0.1 | http://0x7f.0.0.1
http://127.0.0.0x1 | http://127.0.1 | http://1.2.3.4.5 | http://256.0.0.1 | http://127.0.0.01 | http://example.0x1
http://[127.0.0.1] | http://[::1 | http://::1 | http://[fe80::1%25eth0] | http://[fe80::1%eth0] | http://[v1.x]
http://example..org | http://.example.org | http://-a.org | http://example.org. | http://%31%32%37.0.0.1
http://127。0。0。1 | http://①②⑦.0.0.1 | http://münchen.example | http://exam%00ple.org | http://a,b | http://a_b-.org
""".replace("\n", " | ").split(" | ")

INSIDE = words("""
127.0.0.1 127.255.255.254 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 ::1 fc00::1 fd12:3456::1
::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:7f00:1
""")

NOWHERE = words("""
0.0.0.0 0.1.2.3 169.254.169.254 169.254.0.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 192.0.2.1 198.51.100.1
203.0.113.1 198.18.0.1 192.0.0.1 192.88.99.1 :: fe80::1 fec0::1 ff02::1 2001:db8::1 100::1 2002:7f00:1:: 2002:a00:1::
2001::1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 ::127.0.0.1 ::ffff:0:127.0.0.1 ::ffff:169.254.169.254
::ffff:0.0.0.0 5f00::1 3fff::1 4000::1
""")

PUBLIC = ["1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "2a00:1450::1", "::ffff:1.1.1.1"]


def url_of(ip: str) -> str:
    return f"http://[{ip}]:8420" if ":" in ip else f"http://{ip}:8420"


@pytest.mark.parametrize("text", [text for text in NO_ADDRESS if text])
def test_what_is_no_address_of_a_node(text: str) -> None:
    """P1, P2: read the same by everybody or not at all."""
    with pytest.raises(BadData, match="web address"):
        read_node_url(text)


@pytest.mark.parametrize("text", ["http://a.org?x", "http://a.org/#x", "http://a.org/?"])
def test_an_address_has_no_query(text: str) -> None:
    """P2."""
    with pytest.raises(BadData, match="no query"):
        read_node_url(text)


@pytest.mark.parametrize(
    ("text", "one_spelling", "address"),
    [
        ("http://Parent.Example:8420/", "http://parent.example:8420", Address("http", "parent.example", 8420, "")),
        ("HTTPS://a.org:443/node/", "https://a.org/node", Address("https", "a.org", 443, "/node")),
        ("http://[0:0::1]:8420", "http://[::1]:8420", Address("http", "::1", 8420, "")),
        ("http://my_node", "http://my_node", Address("http", "my_node", 80, "")),
        ("http://127.0.0.1:1", "http://127.0.0.1:1", Address("http", "127.0.0.1", 1, "")),
        ("http://1a.2b", "http://1a.2b", Address("http", "1a.2b", 80, "")),
    ],
)
def test_an_address_in_one_spelling(text: str, one_spelling: str, address: Address) -> None:
    assert (read_node_url(text), read_url(text)) == (one_spelling, address)


@pytest.mark.parametrize("port", [22, 25, 1023])
def test_a_stranger_cannot_send_us_to_the_ports_of_other_services(port: int) -> None:
    """P3."""
    url = f"http://a.org:{port}"
    assert read_url(url).port == port
    with pytest.raises(BadData, match=f"port {port}, at which no node listens"):
        read_url(url, typed=False)
    for fine in (80, 443, 1024, 8420):
        assert read_url(f"http://a.org:{fine}", typed=False).port == fine


@pytest.mark.parametrize("ip", INSIDE)
def test_a_private_address_is_for_the_operator_alone(ip: str) -> None:
    """P5."""
    assert "private network" in (refusal(ipaddress.ip_address(ip), STRANGER) or "")
    assert refusal(ipaddress.ip_address(ip), TYPED) is None
    with pytest.raises(BadData, match="private network"):
        resolve(read_url(url_of(ip)), STRANGER)


@pytest.mark.parametrize("ip", NOWHERE)
def test_an_address_of_no_single_machine_is_for_nobody(ip: str) -> None:
    """P6: metadata services, multicast, tunnels and what embeds another address."""
    for reach in (STRANGER, TYPED):
        assert "no single machine" in (refusal(ipaddress.ip_address(ip), reach) or "")


@pytest.mark.parametrize("ip", PUBLIC)
def test_a_public_address_is_for_all(ip: str) -> None:
    assert refusal(ipaddress.ip_address(ip), STRANGER) is None


@pytest.mark.parametrize(
    ("ip", "network"),
    [
        ("10.1.2.3", "10.1.0.0/16"),
        ("::ffff:10.1.2.3", "10.1.0.0/16"),
        ("64:ff9b::101:101", "64:ff9b::/96"),
        ("169.254.7.7", "169.254.7.7"),
    ],
)
def test_an_operator_may_allow_a_network(ip: str, network: str) -> None:
    """P5, P6."""
    allowed = Reach(networks=read_networks([network]))
    assert refusal(ipaddress.ip_address(ip), allowed) is None
    assert refusal(ipaddress.ip_address("10.2.0.1"), allowed) is not None


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "x", ""])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(BadData, match="not a network"):
        read_networks([text])


@given(st.integers(0, 2**128 - 1))
@example(int(ipaddress.IPv6Address("2002:7f00:1::")))
def test_whatever_is_refused_to_the_operator_is_refused_to_strangers(number: int) -> None:
    ip = ipaddress.IPv6Address(number)
    assert refusal(ip, TYPED) is None or refusal(ip, STRANGER) is not None


TEXTS = st.from_regex(r"https?://[\[\]a-zA-Z0-9.:@%/?#\\_ -]{1,30}", fullmatch=True)


@given(TEXTS)
@example("http://0/")
@example("http://[::ffff:7f00:1]:80/x?y#z")
def test_where_the_library_would_go_is_where_we_go(text: str) -> None:
    """P1: of what is accepted, no second reading exists."""
    try:
        ours = read_url(text)
    except BadData:
        return
    theirs = httpx.URL(text)
    host = theirs.host
    if ":" in host:
        host = str(ipaddress.IPv6Address(host))
    assert (theirs.scheme, host, theirs.port or {"http": 80, "https": 443}[theirs.scheme]) == (
        ours.scheme, ours.host, ours.port,
    )  # fmt: skip
    assert not theirs.userinfo


class Names:
    """A name server whose answers are told one by one; IP addresses stand for themselves."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers, self.asked = list(answers), 0

    def look_up(self, host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        if host[0].isdigit():
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]
        self.asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in self.answers.pop(0)]


@pytest.mark.parametrize(
    "answer", [["127.0.0.1"], ["10.0.0.7"], ["1.1.1.1", "127.0.0.1"], ["::1"], ["169.254.169.254"]]
)
def test_a_name_that_leads_inside_is_refused(answer: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """P5: a name proves nothing; what it resolves to is checked, all of it."""
    monkeypatch.setattr(socket, "getaddrinfo", Names(answer).look_up)
    with pytest.raises(BadData, match=r"rebind\.example is "):
        HttpTransport(allow_private=False).get("http://rebind.example:8420/", max_bytes=9, timeout_s=5)


def test_a_name_that_changes_between_look_ups_leads_to_the_address_that_was_checked(
    answering: Callable[[Callable[[socket.socket], None]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4: the name is asked for once, so that there is no second answer."""

    def talk(connection: socket.socket) -> None:
        heads.append(connection.recv(9999))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        connection.close()

    heads: list[bytes] = []
    port = answering(talk).rpartition(":")[2]
    names = Names(["127.0.0.1"], ["169.254.169.254"])
    monkeypatch.setattr(socket, "getaddrinfo", names.look_up)
    got = HttpTransport(allow_private=True).get(f"http://parent.example:{port}/x", max_bytes=9, timeout_s=5)
    assert (got, names.asked) == (b"ok", 1)
    assert f"host: parent.example:{port}".encode() in heads[0].lower()
    with pytest.raises(BadData, match=r"parent\.example is 169\.254\.169\.254"):
        HttpTransport(allow_private=True).get(f"http://parent.example:{port}/x", max_bytes=9, timeout_s=5)


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(LocalFailure, match="is not known"):
        resolve(read_url("http://nowhere.example"), TYPED)


@given(st.text(max_size=40))
def test_no_text_does_anything_but_be_read_or_refused(text: str) -> None:
    try:
        assert read_node_url(read_node_url(text)) == read_node_url(text)
    except BanyanError as error:
        assert "\n" not in error.message
