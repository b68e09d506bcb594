"""Trees in which everybody is enrolled and has pulled the first releases: made once, then brought back for each trial.

A tree is made by the same rounds that a trial consists of, with keys that follow from the names of the nodes. What is
kept of it are the images of the databases and the files, which a trial gets as hard links: none is written in place.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Final

from registry.blobs import BlobStore
from registry.documents import Enrolment, seal_document
from registry.home import Home
from registry.keys import PrivateKey
from registry.log.entry import log_entry
from registry.log.leaves import append
from registry.paths import NodePath
from registry.store import Store
from registry.tables import EnrolmentRow
from registry.trust.keyring import FILES
from simulations.clock import Clock, Watch
from simulations.member import Member, Parent
from simulations.network import Network
from simulations.rounds import exchange
from simulations.server import serve
from simulations.weights import base_files, base_manifest
from simulations.work import release

START: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
ENROLMENT_LIFE: Final = timedelta(days=365)
ROOT: Final = NodePath(("en",))


@dataclass(frozen=True, slots=True)
class Kept:
    """One node of a tree as it is brought back: its image, and its folders and files below its home."""

    member: Member
    image: bytes
    folders: tuple[str, ...]
    files: tuple[str, ...]
    links: tuple[tuple[str, str], ...]

    def bring_back(self, folder: Path, clock: Clock, network: Network) -> Member:
        """The node as it was, with its home below a new folder; the one that was brought back last is gone."""
        home = folder / self.member.host
        _link(self, self.member.home.root, home)
        self.member.store.restore(self.image)
        return _settled(self.member, home, self.member.store, Watch(clock), network)


class Tree:
    """A prepared tree. `fanouts` are the children of a node on each level, the root's first: (2, 7) has 1 + 2 + 14.

    `heads` are the versions and digests that each host serves of each path.
    """

    def __init__(self, fanouts: Sequence[int], folder: Path) -> None:
        self._folder = folder
        clock = Clock(START)
        network = Network(clock, random.Random(0))  # noqa: S311  a simulation
        self._kept = [keep(member) for member in _make(tuple(fanouts), folder, Watch(clock), network)]
        self.heads = {
            (kept.member.host, path): (row.version, row.digest)
            for kept in self._kept
            for path, row in kept.member.heads().items()
        }

    @property
    def size(self) -> int:
        """How many nodes there are."""
        return len(self._kept)

    def bring_back(self, folder: Path, clock: Clock, network: Network) -> list[Member]:
        """The nodes as they were, the root first, with their homes below a new folder; the last ones are gone."""
        return [kept.bring_back(folder, clock, network) for kept in self._kept]

    def fork(self, member: Member, folder: Path) -> Member:
        """What a node was at the beginning, once more beside it, with the same key: for those that lead two lives."""
        kept = next(kept for kept in self._kept if kept.member.host == member.host)
        store = Store.in_memory(kept.image)
        _link(kept, kept.member.home.root, folder)
        return _settled(kept.member, folder, store, member.watch, member.network)


def key_of(host: str, role: str = "targets") -> PrivateKey:
    """The key of a node or of one of its roles: it follows from the name."""
    return PrivateKey.from_secret(hashlib.sha256(f"{host} {role}".encode()).digest())


def _settled(member: Member, folder: Path, store: Store, watch: Watch, network: Network) -> Member:
    home = Home(folder)
    return replace(
        member, home=home, blobs=BlobStore(home.blobs, home.partial), store=store, watch=watch, network=network
    )


def _make(fanouts: tuple[int, ...], folder: Path, watch: Watch, network: Network) -> list[Member]:
    root = new_member(folder, ROOT, watch, network)
    for data in (*base_files().values(), base_manifest().to_bytes()):
        root.blobs.put_bytes(data)
    members, level = [root], [root]
    for fanout in fanouts:
        for member in level:
            release(member)
        level = [child for member in level for child in _children(member, fanout, folder)]
        members += level
    for member in members:
        member.checkpoint()
    return members


def _children(parent: Member, fanout: int, folder: Path) -> list[Member]:
    places = [NodePath((*parent.place.parts, f"n{number}")) for number in range(fanout)]
    children = [new_member(folder, place, parent.watch, parent.network) for place in places]
    for child in children:
        pinned = enrol(parent, child)
        child.log_peers = tuple(other.host for other in children if other is not child)
        if exchange(child, pinned, chance=0.0).refused:
            raise RuntimeError(f"{child.host} could not join the tree")
    return children


def new_member(folder: Path, place: NodePath, watch: Watch, network: Network) -> Member:
    """A node that nobody knows yet, with its home below a folder; its keys follow from its place."""
    host = str(place).replace("/", "-")
    home = Home(folder / host)
    home.create()
    for role, name in FILES.items():
        key_of(host, role).save(home.key_file.parent / name)
    member = Member(
        host, key_of(host), place, home, Store.in_memory(_empty()), BlobStore(home.blobs, home.partial), watch, network
    )
    member.blobs.put_bytes(member.key.public.raw)
    network.join(host, lambda request: serve(member, request))
    return member


@cache
def _empty() -> bytes:
    """A database in which nothing happened: migrated once, not for every node."""
    return Store.in_memory().image()


def _pinned(parent: Member) -> Parent:
    return Parent(parent.host, parent.key.public, parent.place)


def enrol(parent: Member, child: Member) -> Parent:
    """Let a child speak for its place, and pin the parent there; the parent as the child knows it."""
    now, key, path = parent.watch.now(), child.key.public, str(child.place)
    enrolment = Enrolment(
        path=path,
        key=key.hex,
        issuer=parent.key.public.id,
        issuer_path=str(parent.place),
        created=now,
        expires=now + ENROLMENT_LIFE,
    )
    envelope = seal_document(enrolment, parent.key)
    row = EnrolmentRow(
        key_id=key.id, path=path, public_key=key.hex, state="active", request=b"", envelope=envelope, changed=now
    )
    with parent.store.transaction() as session:
        session.add(row)
        append(session, log_entry("enrolment.granted", hashlib.sha256(envelope).hexdigest(), now, by="person"))
    parent.children[child.host] = key
    child.parent = _pinned(parent)
    return child.parent


def keep(member: Member) -> Kept:
    """A node as it is now, to be brought back."""
    root = member.home.root
    places = sorted(root.rglob("*"))
    return Kept(
        member,
        member.store.image(),
        tuple(str(place.relative_to(root)) for place in places if place.is_dir() and not place.is_symlink()),
        tuple(str(place.relative_to(root)) for place in places if place.is_file() and not place.is_symlink()),
        tuple((str(place.relative_to(root)), str(place.readlink())) for place in places if place.is_symlink()),
    )


def _link(kept: Kept, source: Path, folder: Path) -> None:
    """A home like the kept one, in one step a file: that is most of what a trial costs before it begins."""
    before, after = f"{source}/", f"{folder}/"
    folder.mkdir(mode=0o700, parents=True)
    for name in kept.folders:
        os.mkdir(after + name, 0o700)  # noqa: PTH102  pathlib takes three times as long
    for name in kept.files:
        os.link(before + name, after + name)
    for name, target in kept.links:
        os.symlink(target, after + name)  # noqa: PTH211
