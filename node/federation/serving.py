"""`node federate serve`: a SuperLink on the loopback interface, and before it what children may see of it, over TLS."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

from node.api.fleet import CALL_S, fleet_app
from node.api.server import make_server, until_told
from node.context import Node
from node.federation.admissions import Admissions
from node.federation.certificates import VALID, Certificate, make_certificate, only, write_private
from node.federation.places import Places, places_of
from node.federation.processes import flower_process, free_port
from registry.documents import seal_document
from registry.errors import LocalFailure
from registry.rounds import Invitation
from sync.federation.runtime import Endpoint

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Served:
    """Where rounds are served: the address that children are told, and the SuperLink behind it."""

    address: str
    superlink: str


def serve(
    node: Node,
    host: str,
    port: int,
    ready: Callable[[Served], None],
    *,
    address: str = "",
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Serve federated rounds until SIGINT or SIGTERM; `ready` is called once children can come.

    `address` is what children are told, where it is not `host`:`port`. Raises LocalFailure where this node has no
    place, Flower is not installed or does not start, or the port is taken.
    """
    if not node.paths:
        raise LocalFailure("this node has no place of its own", "node config set paths en/finance")
    places = places_of(node)
    inner = make_certificate(places.parent, "superlink", [LOOPBACK, "localhost"], now())
    write_private(places.secret, secrets.token_bytes(32))
    behind = free_port()
    with _listening(host, port) as listening:
        told = address or f"{host}:{listening.getsockname()[1]}"
        outer = make_certificate(places.parent, "children", sorted({host, _host_of(told), LOOPBACK}), now())
        with flower_process("flower-superlink", _superlink_words(inner, places.secret, behind), behind, places.parent):
            served = Served(told, f"{LOOPBACK}:{behind}")
            _announce(node, places, served, outer, now())
            try:
                _answer(node, listening, served, inner, outer, lambda: ready(served), now)
            finally:
                places.invitation.unlink(missing_ok=True)
                places.superlink.unlink(missing_ok=True)


def _answer(
    node: Node,
    listening: socket.socket,
    served: Served,
    inner: Certificate,
    outer: Certificate,
    ready: Callable[[], None],
    now: Callable[[], datetime],
) -> None:
    """Let children in and pass their calls on, until told to end."""
    endpoint = Endpoint(served.superlink, b"", inner.pem.encode())
    client = httpx.Client(
        base_url=f"https://{served.superlink}", verify=only(inner.pem), timeout=CALL_S, trust_env=False
    )
    with client:
        app = fleet_app(Admissions(node, endpoint.register, now), client)
        server = make_server(app, LOOPBACK, 0, tls=(outer.file, outer.key))
        server.on_listening = ready
        asyncio.run(until_told(server, [listening]))


def _superlink_words(certificate: Certificate, secret: Path, port: int) -> list[str | Path]:
    """Alone, with TLS, SuperNodes by their keys, and nobody but us to run apps."""
    return [
        *("--host", LOOPBACK, "--port", str(port), "--enable-supernode-auth"),
        *("--ssl-certfile", certificate.file, "--ssl-keyfile", certificate.key, "--ssl-ca-certfile", certificate.file),
        *("--isolation", "process", "--superexec-auth-secret-file", secret),
        "--disable-runtime-dependency-installation",
    ]


def _announce(node: Node, places: Places, served: Served, outer: Certificate, now: datetime) -> None:
    """Leave the invitation for the node's interface, and the SuperLink's address for `run` (J9)."""
    invitation = Invitation(
        issuer=node.key.public.id,
        created=now,
        expires=now + VALID,
        path=str(node.paths[0]),
        address=served.address,
        certificate=outer.pem,
    )
    write_private(places.superlink, json.dumps({"address": served.superlink}).encode())
    write_private(places.invitation, seal_document(invitation, node.key))


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise LocalFailure(
            f"cannot listen on {host}:{port}: {error.strerror}", "choose another with --host and --port"
        ) from error


def _host_of(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")
