"""Addresses of peers: which URLs are read, and which machines may be contacted under them.

A URL is read here and nowhere else: the connection goes to the host and port that this file saw, at an address that it
checked, whatever another parser would make of the same text. Opening the socket is left to `sync.wire`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from registry.errors import BadData, LocalFailure

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL_CHARS: Final = 2_000
MAX_PORT: Final = 65_535
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
LOWEST_FREE_PORT: Final = 1_024  # below it listen mail, shells and other services that are no nodes

_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# What resolvers take for a number: decimal, octal and hexadecimal spellings of an IPv4 address end in such a label.
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
# One look at the whole text, before any library reads it: no space, no control, no backslash, no user, ASCII alone.
_ORIGIN: Final = re.compile(
    r"(?i:https?)://(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?(?=[/?#]|$)"
)
_REST: Final = re.compile(r"[!-~]*")

# Inside somebody's network or on this machine; for URLs that the operator typed.
_INSIDE: Final = tuple(
    map(
        ipaddress.ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "fc00::/7", "::1/128"),
    )
)
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")  # all of IPv6 that is routed (RFC 4291, IANA's registry)
_TUNNELS: Final = tuple(
    map(
        ipaddress.ip_network,
        ("2002::/16", "2001::/23", "3fff::/20", "192.88.99.0/24"),  # 6to4, Teredo and others, documentation, its relay
    )
)


@dataclass(frozen=True, slots=True)
class Address:
    """A host and port under a scheme; `path` has no slash at its end. IPv6 hosts stand without brackets."""

    scheme: str
    host: str
    port: int
    path: str


@dataclass(frozen=True, slots=True)
class Reach:
    """Whom a URL may lead to: every public address; private ones if the operator `typed` it; `networks` in any case."""

    typed: bool = False
    networks: tuple[Network, ...] = ()


def read_url(text: str, *, typed: bool = True) -> Address:
    """The address that a URL names (P1, P2, P3); raises BadData. `typed`: by this node's operator, not by a peer."""
    match = _ORIGIN.match(text)
    if match is None or len(text) > MAX_URL_CHARS or not _REST.fullmatch(text):
        raise BadData(
            f"not a web address: {text!a:.200}", "http:// or https://, a host and perhaps a port; no user, no spaces"
        )
    scheme, host = text.partition(":")[0].lower(), _host(match[1], text)
    port = int(match[2]) if match[2] else DEFAULT_PORTS[scheme]
    if not 0 < port <= MAX_PORT:
        raise BadData(f"not a web address: {text!a:.200}: a port is from 1 to {MAX_PORT}", "leave it out for the usual")
    if not typed and port < LOWEST_FREE_PORT and port not in DEFAULT_PORTS.values():
        raise BadData(f"{text!a:.200} names port {port}, at which no node listens", "80, 443, or from 1024 on")
    return Address(scheme, host, port, urlsplit(text).path.rstrip("/"))


def read_node_url(text: str, *, typed: bool = True) -> str:
    """The URL of a node in one spelling, without a slash at its end (P2); raises BadData."""
    found = read_url(text, typed=typed)
    if "?" in text or "#" in text:
        raise BadData(f"a node's address has no query and no fragment: {text!a:.200}", "leave it out")
    host = f"[{found.host}]" if ":" in found.host else found.host
    port = "" if found.port == DEFAULT_PORTS[found.scheme] else f":{found.port}"
    return f"{found.scheme}://{host}{port}{found.path}"


def read_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Networks in CIDR form, such as 10.0.0.0/8; raises BadData."""
    try:
        return tuple(ipaddress.ip_network(text) for text in texts)
    except ValueError as error:
        raise BadData(f"not a network: {error}", "write it as 10.1.0.0/16 or fd00::/8") from error


def resolve(address: Address, reach: Reach) -> list[str]:
    """The IP addresses of a host in the resolver's order, asked for once (P4).

    Raises LocalFailure when the name is unknown, BadData when one of the addresses may not be contacted: a name that
    leads inside and outside is refused as a whole.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise LocalFailure(
            f"the name {address.host} is not known", "is it spelled right, is there a network?"
        ) from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for text in addresses:
        if why := refusal(ipaddress.ip_address(text), reach):
            raise BadData(f"{address.host} is {text}, {why}", "node config set peer_networks NETWORK, if that is meant")
    return addresses


def refusal(ip: IP, reach: Reach) -> str | None:
    """Why an address may not be contacted, None if it may (P5, P6)."""
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped  # the socket would go there
    if any(ip in network for network in reach.networks) or _is_public(ip):
        return None
    if not any(ip in network for network in _INSIDE):
        return "an address that is no single machine's, or only of this cable (link-local, multicast, reserved, tunnel)"
    return None if reach.typed else "an address inside a private network or on this machine"


def _is_public(ip: IP) -> bool:
    """Whether an address is one machine's on the open Internet. What embeds another one (6to4, NAT64) is not."""
    if isinstance(ip, ipaddress.IPv6Address) and ip not in _UNICAST:
        return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _TUNNELS)


def _host(text: str, url: str) -> str:
    """A host in one spelling: an IP address as libraries write it, or a name in lower case."""
    refused = BadData(
        f"not a web address: {url!a:.200}: {text!a:.100} is neither a name nor an IP address in its usual spelling",
        "an address is written as 192.0.2.7 or [2001:db8::7]",
    )
    bare = text.removeprefix("[").removesuffix("]")
    if text.startswith("[") or _NUMBER.fullmatch(text.rpartition(".")[2]):
        try:
            return str(ipaddress.IPv6Address(bare) if text.startswith("[") else ipaddress.IPv4Address(bare))
        except ValueError:
            raise refused from None
    if not _NAME.fullmatch(text):
        raise refused
    return text.lower()
