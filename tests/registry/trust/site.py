"""A TUF repository in memory of which a test decides every byte: what an honest or a hostile node may serve."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import FetcherInterface

from registry.envelope import library_key, library_signer
from registry.keys import PrivateKey
from registry.trust.client import Client, begin, in_our_words
from registry.trust.files import locked
from registry.trust.roles import ROLES

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
URL = "http://node/metadata"
DAY = timedelta(days=1)


class Site(FetcherInterface):
    """Four roles with a key each; `publish` signs and serves what stands in the fields."""

    def __init__(self) -> None:
        self.keys: dict[str, list[PrivateKey]] = {role: [PrivateKey.generate()] for role in ROLES}
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.root = Root(version=1, expires=NOW + 365 * DAY)
        for role, keys in self.keys.items():
            self.root.add_key(library_key(keys[0].public), role)
        self.targets = Targets(version=1, expires=NOW + 30 * DAY)
        self.snapshot = Snapshot(version=1, expires=NOW + 30 * DAY)
        self.timestamp = Timestamp(version=1, expires=NOW + DAY)
        self.list("en/v1", b"the first")
        self.publish_root()
        self.publish()

    @property
    def node(self) -> PrivateKey:
        return self.keys["targets"][0]

    def list(self, name: str, data: bytes) -> None:
        self.targets.targets[name] = TargetFile.from_data(name, data, ["sha256"])

    def sign(self, role: str, signed: Any, signers: Sequence[PrivateKey] | None = None) -> bytes:
        metadata = Metadata(signed)
        for key in self.keys[role] if signers is None else signers:
            metadata.sign(library_signer(key), append=True)
        return metadata.to_bytes()

    def publish_root(self, *more: PrivateKey) -> None:
        """Sign the root with its keys, the node's key and others."""
        signers = [*self.keys["root"], self.node, *more]
        data = self.sign("root", self.root, signers)
        self.files[f"{self.root.version}.root.json"] = self.files["root.json"] = data

    def publish(self) -> None:
        """Sign targets, snapshot and timestamp so that they fit each other."""
        self.put("targets", self.targets)
        self.snapshot.meta = {"targets.json": self.described("targets", self.targets)}
        self.put("snapshot", self.snapshot)
        self.timestamp.snapshot_meta = self.described("snapshot", self.snapshot)
        self.put("timestamp", self.timestamp)

    def publish_with(self, **delegated: Targets) -> None:
        """The same with metadata of delegated roles, by their quoted names."""
        self.publish()
        for name, signed in delegated.items():
            self.files[f"{signed.version}.{name}.json"] = self.sign("targets", signed)
            self.snapshot.meta[f"{unquote(name)}.json"] = MetaFile(signed.version)
        self.put("snapshot", self.snapshot)
        self.timestamp.snapshot_meta = self.described("snapshot", self.snapshot)
        self.put("timestamp", self.timestamp)

    def copy(self) -> Site:
        """A site with the same keys that goes its own way."""
        twin = Site.__new__(Site)
        twin.keys = {role: list(keys) for role, keys in self.keys.items()}
        twin.files, twin.asked = dict(self.files), []
        for role in ROLES:
            setattr(twin, role, copy.deepcopy(getattr(self, role)))
        return twin

    def put(self, role: str, signed: Any, signers: Sequence[PrivateKey] | None = None) -> None:
        name = "timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json"
        self.files[name] = self.sign(role, signed, signers)

    def described(self, role: str, signed: Any) -> MetaFile:
        return MetaFile.from_data(signed.version, self.files[f"{signed.version}.{role}.json"], ["sha256"])

    def step(self, *roles: str) -> None:
        """Raise the versions of roles, all but the root where none is named, and publish."""
        for role in roles or ("targets", "snapshot", "timestamp"):
            getattr(self, role).version += 1
        self.publish()

    def replace(self, role: str, *new: PrivateKey, threshold: int = 1) -> None:
        """Another root, with other keys of a role, signed by the old and the new root keys."""
        old = list(self.keys["root"])
        for key_id in list(self.root.roles[role].keyids):
            self.root.revoke_key(key_id, role)
        self.keys[role] = list(new)
        for key in new:
            self.root.add_key(library_key(key.public), role)
        self.root.roles[role].threshold = threshold
        self.root.version += 1
        self.publish_root(*old)

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix(f"{URL}/")
        self.asked.append(name)
        if name not in self.files:
            raise DownloadHTTPError("not here", 404)
        yield self.files[name]


def follow(folder: Path, site: Site, now: datetime = NOW) -> Client:
    """What a child does: begin if it has not, then refresh."""
    with locked(folder), in_our_words("the releases"):
        begin(folder, URL, site, site.node.public)
        client = Client(folder, URL, site, now=now)
        client.refresh()
    return client


def kept(folder: Path) -> dict[str, bytes]:
    """What a child believes, byte for byte."""
    names = ("root", "timestamp", "snapshot", "targets")
    return {name: (folder / f"{name}.json").read_bytes() for name in names}
