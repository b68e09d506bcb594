"""The key of this node's parent: its enrolments by that key, and what happens when the parent has another one."""

from __future__ import annotations

import shutil
from datetime import datetime
from typing import Final
from urllib.parse import quote

from node.context import Node
from node.former_keys import PARENT, key_change
from registry.documents import Enrolment, open_document
from registry.envelope import MAX_ENVELOPE_BYTES
from registry.errors import BadData
from registry.keys import PublicKey
from registry.paths import NodePath
from registry.store import select
from registry.tables import EnrolmentRow, PeerRow, SeenCheckpointRow
from sync.transport import Refused

PENDING: Final = b'{"state":"pending"}'


def ask_for_enrolment(node: Node, url: str, parent: PublicKey, path: NodePath, now: datetime) -> bytes | None:
    """The parent's enrolment of this node for a path, verified (N8); None while it is waited for."""
    key = node.key.public
    answer = node.peer(url).get(f"/v1/enrolments/{key.id}?path={quote(str(path), safe='')}", MAX_ENVELOPE_BYTES)
    if answer == PENDING:
        return None
    enrolment, _ = open_document(answer, Enrolment, [parent])
    if enrolment.key != key.hex or not path.is_within(NodePath.parse(enrolment.path)):
        raise BadData(f"{url} answered with the enrolment of another key or path", "tell the parent's operator")
    if enrolment.expires <= now:
        raise BadData(f"the enrolment for {path} expired on {enrolment.expires:%Y-%m-%d}", "ask the parent's operator")
    return answer


def take_new_key(node: Node, parent: PeerRow, key: PublicKey, now: datetime) -> None:
    """Pin the key that the parent's root names, and its enrolments of this node that it signed with it, all at once.

    An enrolment that the parent no longer gives counts as revoked. The folder of trusted metadata is copied to its new
    name before and removed after, so that a kill leaves one that fits what is pinned.
    """
    with node.store.read() as session:
        mine = (EnrolmentRow.key_id == node.key.public.id, EnrolmentRow.state == "active")
        paths = list(session.scalars(select(EnrolmentRow.path).where(*mine)))
    answers: dict[str, bytes | None] = {}
    for path in paths:
        try:
            answers[path] = ask_for_enrolment(node, parent.url, key, NodePath.parse(path), now)
        except Refused as refusal:
            if refusal.status != 403:
                raise
            answers[path] = None
    old, new = node.home.trusted / parent.key_id, node.home.trusted / key.id
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(old, new, symlinks=True)
    with node.store.transaction() as session:
        session.delete(session.get_one(PeerRow, parent.key_id))
        session.flush()
        session.add(PeerRow(key_id=key.id, role="parent", path=parent.path, url=parent.url, public_key=key.hex))
        session.add(key_change(PARENT, PublicKey.from_hex(parent.public_key), key, now))
        for seen in session.scalars(select(SeenCheckpointRow).where(SeenCheckpointRow.key_id == parent.key_id)):
            seen.key_id = key.id  # its log goes on: what was seen of it still binds it (L10)
        for path, answer in answers.items():
            row = session.get_one(EnrolmentRow, (node.key.public.id, path))
            row.state, row.envelope, row.changed = "active" if answer else "revoked", answer, now
    shutil.rmtree(old, ignore_errors=True)
