"""Other keys for this node's roles: `node keys rotate` and `node keys revoke` of a key of its own.

A change is made in this order, so that the same command goes on where a killed one ended: the new key is written
beside the old one, the root that names it is signed, what the old key signed in the database is signed anew, the new
file takes the old one's place, and the metadata that the new root asks for is published.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from node.context import Node
from node.former_keys import OWN, key_change
from node.repository import Publisher, repository
from registry.documents import Enrolment, Verdict, open_document, seal_document
from registry.errors import LocalFailure
from registry.keys import KeyId, PrivateKey
from registry.log.entry import log_entry
from registry.log.leaves import append
from registry.store import Session, select
from registry.tables import ArrivalRow, DecisionRow, EnrolmentRow, UpdateRow
from registry.trust.repository import Repository, newest_root
from registry.trust.roles import RoleName, keys_of, replace_keys
from sync.daemon import only_daemon
from sync.lifecycle import LOGGED


@dataclass(frozen=True, slots=True)
class RootKeys:
    """Where root keys lie that are not in the home, and those that a new root shall have, with their threshold."""

    at: tuple[Path, ...] = ()
    new: tuple[Path, ...] = ()
    threshold: int | None = None


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A role after a change: its keys now, how many of them have to sign, and the version of the root that says so."""

    role: RoleName
    keys: tuple[KeyId, ...]
    threshold: int
    root_version: int
    files: tuple[Path, ...]


def rotate(node: Node, role: RoleName, root_keys: RootKeys, now: datetime) -> KeyChange:
    """Give a role a new key (F10), or the root the keys that are to be written to `root_keys.new`.

    Raises LocalFailure while a daemon runs, which would go on with the old keys, or where root keys are missing.
    """
    with only_daemon(node.home.daemon_lock):
        place = _published(node, now)
        if role == "root":
            files = _new_root_keys(place, root_keys, now)
        else:
            files = (place.ring.file(role),)
            node = _new_key(node, place, role, root_keys, now)
        Publisher(node).renew(now)
        return _described(repository(node), role, files)


def drop_root_key(node: Node, key_id: KeyId, root_keys: RootKeys, now: datetime) -> KeyChange:
    """Take one of several keys from the root role. LocalFailure where too few would be left."""
    with only_daemon(node.home.daemon_lock):
        place = _published(node, now)
        role = place.root().roles["root"]
        if len(role.keyids) <= role.threshold:
            raise LocalFailure(
                f"the root asks for {role.threshold} of its {len(role.keyids)} keys: none can be left out",
                "node keys rotate root --new-key FILE ...",
            )
        signers = place.ring.root_keys(place.root(), root_keys.at)
        place.change_root(lambda root: root.revoke_key(key_id, "root"), signers, now)
        return _described(place, "root", ())


def _published(node: Node, now: datetime) -> Repository:
    """The repository, made where there is none yet."""
    place = repository(node)
    if newest_root(place.folder) is None:
        Publisher(node).renew(now)
    return place


def _new_key(node: Node, place: Repository, role: RoleName, root_keys: RootKeys, now: datetime) -> Node:
    """A new key of one of the roles that are signed on this machine; the node, with it if it is its own."""
    new, root = place.ring.next(role), place.root()
    if new.public not in keys_of(root, role):
        signers = [*place.ring.root_keys(root, root_keys.at), new]
        place.change_root(lambda draft: replace_keys(draft, role, [new.public], 1), signers, now)
    if role == "targets":
        _sign_anew(node, new, now)
    place.ring.promote(role)
    return replace(node, key=new) if role == "targets" else node


def _new_root_keys(place: Repository, root_keys: RootKeys, now: datetime) -> tuple[Path, ...]:
    """New keys for the root, signed by those of the old one and by the new ones; in the home, or at given places."""
    ring, root = place.ring, place.root()
    if not root_keys.new and root_keys.threshold is None and len(root.roles["root"].keyids) > 1:
        raise LocalFailure(
            f"the root has {len(root.roles['root'].keyids)} keys: one file in the home would be less than that",
            "name files for the new ones: --new-key FILE ..., or say --threshold 1",
        )
    new = [ring.made(file) for file in root_keys.new] or [ring.next("root")]
    publics = [key.public for key in new]
    threshold = root_keys.threshold or min(root.roles["root"].threshold, len(new))
    if set(keys_of(root, "root")) != set(publics):
        signers = [*ring.root_keys(root, root_keys.at), *new]
        place.change_root(lambda draft: replace_keys(draft, "root", publics, threshold), signers, now)
    if not root_keys.new:
        ring.promote("root")
        return (ring.file("root"),)
    ring.file("root").unlink(missing_ok=True)  # no root names it any more; the new ones lie where they were asked for
    return root_keys.new


def _sign_anew(node: Node, new: PrivateKey, now: datetime) -> None:
    """Sign with the new key what others hold this node to: enrolments that it gave, verdicts; in one transaction (F4).

    What this node was enrolled for with the old key is gone: its parent has to enrol the new one.
    """
    old = node.key
    node.blobs.put_bytes(new.public.raw)
    with node.store.transaction() as session:
        for row in session.scalars(select(EnrolmentRow).where(EnrolmentRow.state == "active")):
            if row.key_id == old.public.id:
                session.delete(row)
            elif row.envelope is not None:
                row.envelope = _enrolment(row.envelope, old, new)
        judged = select(UpdateRow).where(UpdateRow.direction == "in", UpdateRow.verdict.is_not(None))
        for update in session.scalars(judged):
            verdict, _ = open_document(update.verdict or b"", Verdict, [old.public, new.public])
            anew = seal_document(verdict, new)
            if anew != update.verdict:  # its sender looks for these bytes in the log (L12)
                update.verdict = anew
                append(session, log_entry(LOGGED[verdict.outcome], update.digest, now, by="person", document=anew))
        for arrived in session.scalars(select(ArrivalRow)):
            held, _ = open_document(arrived.verdict, Verdict, [old.public, new.public])
            arrived.verdict = seal_document(held, new)
        _note(session, old, new, now)


def _enrolment(envelope: bytes, old: PrivateKey, new: PrivateKey) -> bytes:
    enrolment, _ = open_document(envelope, Enrolment, [old.public, new.public])
    return seal_document(enrolment.model_copy(update={"issuer": new.public.id}), new)


def _note(session: Session, old: PrivateKey, new: PrivateKey, now: datetime) -> None:
    """Once, however often a killed change goes on."""
    known = select(DecisionRow).where(DecisionRow.kind == OWN, DecisionRow.subject == new.public.id)
    if session.scalars(known).first() is None:
        session.add(key_change(OWN, old.public, new.public, now))
        append(session, log_entry("key.rotated", old.public.id, now, by="person"))


def _described(place: Repository, role: RoleName, files: tuple[Path, ...]) -> KeyChange:
    root = place.root()
    keys = tuple(key.id for key in keys_of(root, role))
    return KeyChange(role, keys, root.roles[role].threshold, root.version, files)
