"""The child's side of enrolment: find a parent, pin its key, ask to speak for a path, and fetch the answer.

The parent's key is the one thing that a person has to compare (its fingerprint, by another way than the network);
everything after it is verified. The parent's side is in `node.enrolments`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints, ValidationError

from node.config_file import edit_config
from node.context import Node, parent_of
from node.parent_key import ask_for_enrolment
from node.parent_repository import parent_listing, take_first_root
from registry.documents import EnrolmentRequest, seal_document
from registry.envelope import MEDIA_TYPE
from registry.errors import BadData, LocalFailure
from registry.fields import KeyHex, Name, Part, PathText
from registry.keys import PublicKey
from registry.paths import NodePath
from registry.store import select
from registry.tables import EnrolmentRow, PeerRow
from sync.address import read_node_url

State = Literal["pending", "active"]
ANSWER_BYTES: Final = 64 << 10


class Introduction(Part):
    """What a node says of itself at `/v1/node`. Nothing of it is proven."""

    key: KeyHex
    name: Name
    paths: Annotated[tuple[PathText, ...], Field(max_length=64)]
    version: Annotated[str, StringConstraints(max_length=60)]


@dataclass(frozen=True, slots=True)
class Stranger:
    """A node that may become the parent: what a person decides on."""

    url: str
    name: str
    key: PublicKey
    paths: tuple[NodePath, ...]


def look_at(node: Node, url: str) -> Stranger:
    """Ask a node who it is. Raises LocalFailure when it does not answer, BadData when it is not a node."""
    url = read_node_url(url)
    try:
        said = Introduction.model_validate_json(node.peer(url).get("/v1/node", ANSWER_BYTES))
    except ValidationError as error:
        raise BadData(f"{url} did not say who it is", "is this the address of a node?") from error
    return Stranger(url, said.name, PublicKey.from_hex(said.key), tuple(map(NodePath.parse, said.paths)))


def enrol(node: Node, url: str, path: NodePath, confirm: Callable[[Stranger], bool], now: datetime) -> State:
    """Ask the node at `url` to be the parent of `path`; repeating it asks for the answer.

    `confirm` is asked once, before the parent's key is pinned. Raises BadData when the key is not the pinned one, the
    path is not below the parent's or the parent says no; LocalFailure when `confirm` says no, when there is another
    parent already or when this one does not answer.
    """
    stranger = look_at(node, url)
    if _pinned_with_another_key(node, stranger):
        with suppress(BadData):
            parent_listing(node, now)  # which takes a new key, if the parent's root names it
    _pin(node, stranger, path, confirm)
    take_first_root(node)
    request = _request(node, path, now)
    node.peer(stranger.url).transport.post(
        f"{stranger.url}/v1/enrolments",
        request,
        MEDIA_TYPE,
        max_bytes=ANSWER_BYTES,
        timeout_s=node.settings.request_timeout_s,
    )
    return fetch_enrolment(node, path, now)


def fetch_enrolment(node: Node, path: NodePath, now: datetime) -> State:
    """Ask the parent whether it has enrolled this node for a path; its signed answer is stored."""
    parent = parent_of(node)
    answer = ask_for_enrolment(node, parent.url, PublicKey.from_hex(parent.public_key), path, now)
    if answer is None:
        return "pending"
    with node.store.transaction() as session:
        row = session.get(EnrolmentRow, (node.key.public.id, str(path)))
        if row is None:
            raise LocalFailure(f"this node has not asked to speak for {path}", f"node enrol {parent.url} --path {path}")
        row.state, row.envelope, row.changed = "active", answer, now
    return "active"


def _pinned_with_another_key(node: Node, stranger: Stranger) -> bool:
    with node.store.read() as session:
        known = session.scalars(select(PeerRow).where(PeerRow.role == "parent")).first()
    return known is not None and known.url == stranger.url and known.public_key != stranger.key.hex


def _pin(node: Node, stranger: Stranger, path: NodePath, confirm: Callable[[Stranger], bool]) -> None:
    """Store the parent with its key, once (N6, N7)."""
    places = [place for place in stranger.paths if path.is_within(place)]
    if not places:
        named = ", ".join(map(str, stranger.paths)) or "no place"
        raise BadData(f"{path} does not lie below {stranger.name} ({named})", "ask the node of a place above it")
    with node.store.read() as session:
        known = session.scalars(select(PeerRow).where(PeerRow.role == "parent")).first()
    pinned = known.public_key if known else node.settings.parent_key
    if known is not None and known.public_key != stranger.key.hex and known.url != stranger.url:
        raise LocalFailure(f"this node has a parent already: {known.url}", "a node has one parent: take another --home")
    if stranger.key.hex != (pinned or stranger.key.hex):
        raise BadData(
            f"{stranger.url} answers with another key ({stranger.key.fingerprint}) than the one that is pinned",
            "ask its operator what happened",
        )
    if known is None and not confirm(stranger):
        raise LocalFailure("the parent was not confirmed; nothing was stored or sent", "compare the fingerprints")
    if known is None or known.url != stranger.url:
        _store_parent(node, stranger, min(places))
    paths = sorted({*node.settings.paths, str(path)})
    if (node.settings.parent_url, sorted(node.settings.paths)) != (stranger.url, paths):
        edit_config(node.home.config, {"parent_url": stranger.url, "paths": paths})


def _store_parent(node: Node, stranger: Stranger, place: NodePath) -> None:
    """Make a node the parent, at the highest of its places above ours; one that has moved gets its new address."""
    key = stranger.key
    with node.store.transaction() as session:
        row = session.get(PeerRow, key.id)
        if row is None:
            session.add(PeerRow(key_id=key.id, role="parent", path=str(place), url=stranger.url, public_key=key.hex))
        else:
            row.role, row.url = "parent", stranger.url


def _request(node: Node, path: NodePath, now: datetime) -> bytes:
    """The signed request for a path; made once, so that asking again sends the same bytes.

    One from the future, which a wrong clock made and a parent refuses, is made again.
    """
    key = node.key.public
    with node.store.transaction() as session:
        row = session.get(EnrolmentRow, (key.id, str(path)))
        if row is None or (row.state == "pending" and row.changed > now):
            request = EnrolmentRequest(path=str(path), key=key.hex, url=node.settings.public_url or None, created=now)
            row = EnrolmentRow(
                key_id=key.id,
                path=str(path),
                public_key=key.hex,
                state="pending",
                request=seal_document(request, node.key),
                url=request.url,
                changed=now,
            )
            session.merge(row)
        return row.request
