"""Taking a key back: one of this node's own roles, or one of a child; and what a child's key had contributed.

A child's key may say nothing from then on: its enrolments end, what it sent and is not yet in a release is rejected,
and releases that it signed are no longer listed. What is in a release stays there, and is named, for a person to judge.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from node.context import Node
from node.decisions import decide
from node.enrolments import list_enrolments
from node.enrolments import revoke as end_enrolment
from node.key_changes import KeyChange, RootKeys, drop_root_key, rotate
from node.repository import repository
from registry.errors import BadData
from registry.keys import KeyId
from registry.log.entry import log_entry
from registry.log.leaves import append
from registry.paths import NodePath
from registry.store import select
from registry.tables import DecisionRow, EnrolmentRow, ReleaseRow, UpdateRow
from registry.trust.repository import newest_root
from registry.trust.roles import ROLES, RoleName, keys_of

PREFIX: Final = re.compile(r"[0-9a-f]{4,64}")
UNRELEASED: Final = ("accepted", "quarantined", "aggregated", "gated")  # those before wait for their verdict (V3)


@dataclass(frozen=True, slots=True)
class Contribution:
    """A release of this node, and the updates of the key that went into it."""

    release: str
    digest: str
    updates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Revoked:
    """What became of a key: of which role or for which places it spoke, and what it had contributed."""

    key: KeyId
    change: KeyChange | None = None
    places: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()
    contributed: tuple[Contribution, ...] = ()
    signed: tuple[str, ...] = ()


def revoke(node: Node, key: str, why: str, root_keys: RootKeys, now: datetime) -> Revoked:
    """Take back the key whose id or fingerprint begins like this (F11), and write down why.

    A key of an own role is replaced, one of several root keys left out. Raises BadData where the beginning means no key
    or several, or there is no reason; LocalFailure where the change cannot be made.
    """
    if not why.strip():
        raise BadData("a revocation needs its reason", "--why 'stolen with the laptop'")
    own, others = _own_roles(node), {one.key.id for one in list_enrolments(node)}
    start = "".join(key.split()).lower()
    found = [id_ for id_ in (*own, *others) if PREFIX.fullmatch(start) and id_.startswith(start)]
    if len(found) != 1:
        meant = "several keys" if found else "no key that this node uses or has enrolled"
        raise BadData(f"{start!a} is the beginning of {meant}", "node keys, node enrol list: give more of the id")
    if found[0] in own:
        done = Revoked(found[0], change=_replace(node, own[found[0]], found[0], root_keys, now))
    else:
        done = _revoke_child(node, found[0], why.strip(), now)
    with node.store.transaction() as session:
        body = json.dumps({"why": why.strip(), "role": done.change.role if done.change else None})
        session.add(DecisionRow(at=now, kind="key.revoked", subject=found[0], body=body))
        append(session, log_entry("key.revoked", found[0], now, by="person"))
    return done


def _own_roles(node: Node) -> dict[KeyId, RoleName]:
    """The keys of this node's roles, if it has published yet."""
    root = newest_root(node.home.repository)
    if root is None:
        return {node.key.public.id: "targets"}
    return {key.id: role for role in ROLES for key in keys_of(root, role)}


def _replace(node: Node, role: RoleName, key: KeyId, root_keys: RootKeys, now: datetime) -> KeyChange:
    if role == "root" and len(repository(node).root().roles["root"].keyids) > 1 and not root_keys.new:
        return drop_root_key(node, key, root_keys, now)
    return rotate(node, role, root_keys, now)


def _revoke_child(node: Node, key: KeyId, why: str, now: datetime) -> Revoked:
    with node.store.read() as session:
        rows = select(EnrolmentRow.path).where(EnrolmentRow.key_id == key, EnrolmentRow.state != "revoked")
        places = tuple(session.scalars(rows.order_by(EnrolmentRow.path)))
        sent = select(UpdateRow).where(UpdateRow.issuer == key, UpdateRow.direction == "in")
        updates = list(session.scalars(sent.order_by(UpdateRow.received)))
        released = {row.digest: row for row in session.scalars(select(ReleaseRow))}
    for place in places:
        end_enrolment(node, key, NodePath.parse(place), now)
    rejected = tuple(row.digest for row in updates if row.state in UNRELEASED)
    for digest in rejected:
        decide(node, digest, "rejected", f"its key was revoked: {why}", now)
    return Revoked(
        key,
        places=places,
        rejected=rejected,
        contributed=_contributions(updates, released),
        signed=tuple(f"{row.path}@v{row.version}" for row in released.values() if row.signer == key),
    )


def _contributions(updates: list[UpdateRow], released: dict[str, ReleaseRow]) -> tuple[Contribution, ...]:
    """By release, the oldest first."""
    by_release: dict[str, list[str]] = {}
    for row in updates:
        if row.release in released:
            by_release.setdefault(row.release, []).append(row.digest)
    ordered = sorted(by_release, key=lambda digest: (released[digest].path, released[digest].version))
    return tuple(
        Contribution(f"{released[digest].path}@v{released[digest].version}", digest, tuple(by_release[digest]))
        for digest in ordered
    )
