"""`node federate join`: a SuperNode towards the parent's rounds, and this process as the one that trains for it."""

from __future__ import annotations

import secrets
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from node.context import Node, parent_of
from node.federation.certificates import make_supernode_key, only, write_private
from node.federation.places import places_of
from node.federation.processes import ended, flower_logs, flower_process, free_port
from node.federation.training import own_release, shapes_at, trainer
from registry.documents import open_document, seal_document
from registry.envelope import MAX_ENVELOPE_BYTES, MEDIA_TYPE
from registry.errors import BadData, LocalFailure
from registry.keys import PublicKey
from registry.paths import NodePath
from registry.rounds import Admission, Invitation
from sync.federation.client import LocalPrivacy, Member, client_app
from sync.federation.runtime import Endpoint, serve_client

ADMITTED: timedelta = timedelta(days=1)
WATCH_S = 0.5
RECONNECT_S = 600  # how long a SuperNode tries to reach a SuperLink that has gone
PROGRAM = "flower-supernode"


@dataclass(frozen=True, slots=True)
class Joined:
    """Where this node takes part."""

    path: str
    address: str


def join(
    node: Node,
    path: NodePath,
    data: Path | None,
    ready: Callable[[Joined], None],
    stop: threading.Event,
    *,
    epochs: int = 1,
    private: LocalPrivacy | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Take part in the parent's rounds as `path` until `stop` is set or the SuperNode ends.

    With `data`, a file of rows, every round is a fine-tune on them; without, this node's own release is what it brings.
    Raises LocalFailure without a parent, rounds or Flower, or when the SuperNode ended; BadData for rows that are none
    and an invitation that the parent did not sign.
    """
    train = trainer(node, path, data, epochs) if data else own_release(node, path)
    invitation, parent = invited(node, now())
    folder = places_of(node).child
    key = folder / "supernode.key"
    _admit(node, path, invitation, parent, make_supernode_key(key), now())
    certificate, secret, inner = folder / "parent.crt", folder / "secret", free_port()
    write_private(certificate, invitation.certificate.encode())
    write_private(secret, secrets.token_bytes(32))
    words: list[str | Path] = [
        *("--superlink", invitation.address, "--root-certificates", certificate),
        *("--auth-supernode-private-key", key, "--max-wait-time", str(RECONNECT_S)),
        *("--isolation", "process", "--superexec-auth-secret-file", secret),
        *("--host", "127.0.0.1", "--port", str(inner)),
    ]
    member = Member(node.key, str(path), parent, shapes_at(node), train, now)
    app = client_app(lambda context: member, private)
    with flower_process(PROGRAM, words, inner, folder) as process:
        ready(Joined(str(path), invitation.address))
        over = threading.Event()
        watching = threading.Thread(target=_watch, args=(process, stop, over), daemon=True)
        watching.start()
        with flower_logs(folder / "rounds.log"):
            serve_client(Endpoint(f"127.0.0.1:{inner}", secret.read_bytes()), app, over)
        watching.join()
        if not stop.is_set():
            raise ended(process, PROGRAM, folder / f"{PROGRAM}.log")


def invited(node: Node, now: datetime) -> tuple[Invitation, PublicKey]:
    """The parent's invitation, signed by the pinned key (J9), and that key."""
    row = parent_of(node)
    parent = PublicKey.from_hex(row.public_key)
    envelope = node.peer(row.url).get("/v1/rounds", MAX_ENVELOPE_BYTES)
    invitation, _ = open_document(envelope, Invitation, [parent])
    if not now < invitation.expires:
        raise BadData("the parent's invitation has expired", "ask its operator to serve rounds again")
    return invitation, parent


def _admit(
    node: Node, path: NodePath, invitation: Invitation, parent: PublicKey, supernode: str, now: datetime
) -> None:
    """Ask that our SuperNode be let in (J10). Raises LocalFailure where the parent says no or does not answer."""
    admission = Admission(
        issuer=node.key.public.id,
        created=now,
        expires=now + ADMITTED,
        path=str(path),
        audience=parent.id,
        supernode=supernode,
    )
    try:
        answer = httpx.post(
            f"https://{invitation.address}/v1/admission",
            content=seal_document(admission, node.key),
            headers={"content-type": MEDIA_TYPE},
            verify=only(invitation.certificate),
            timeout=node.settings.request_timeout_s,
            trust_env=False,
        )
    except httpx.HTTPError as error:
        raise LocalFailure(f"the rounds at {invitation.address} do not answer: {error}", "try again later") from error
    if answer.status_code != httpx.codes.OK:
        raise LocalFailure(f"the parent did not let this node in: {answer.text[:300]}", "node enrol")


def _watch(process: subprocess.Popen[bytes], stop: threading.Event, over: threading.Event) -> None:
    """Say when it is over: told to stop, or the SuperNode has ended."""
    while not stop.wait(WATCH_S) and process.poll() is None:
        pass
    over.set()
