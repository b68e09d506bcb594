"""A node's TUF repository: a folder of signed metadata, brought up to date with the releases that the node serves.

Files are written in the order in which they may be seen: root, targets, snapshot, and the timestamp last, which makes a
state visible. Versions are numbered on from the files that are there, so that what a killed writer left is passed over.
What is served is said by the caller; the keys' files are `registry.trust.keyring`'s.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, T, TargetFile, Targets, Timestamp

from registry.envelope import library_key, library_signer
from registry.errors import BadData, LocalFailure
from registry.keys import PrivateKey, PublicKey
from registry.trust.files import locked, write_whole
from registry.trust.keyring import Keyring
from registry.trust.roles import ROLES, Lives, RoleName, check_root, keys_of

log = logging.getLogger(__name__)

KEPT_VERSIONS: Final = 16  # of targets and snapshot, for clients that have just read an older timestamp
_VERSIONED: Final = re.compile(r"([1-9]\d{0,9})\.(root|targets|snapshot)\.json")


@dataclass(frozen=True, slots=True)
class Target:
    """The size and the SHA-256 (hex) of a file that is published."""

    length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Repository:
    """The repository in a folder, signed with the keys of a ring; `node_key` signs targets and vouches for roots."""

    folder: Path
    ring: Keyring
    node_key: PrivateKey
    lives: Lives

    def publish(self, targets: Mapping[str, Target], now: datetime) -> datetime:
        """Bring the repository up to date (F1, F6, F12), making it where there is none; when to look at it again.

        Raises LocalFailure when the disk or the keys do not allow it; what was published before then stays.
        """
        with locked(self.folder):
            root = self._kept_root(now)
            signed_targets = self._targets(root, targets, now)
            snapshot = self._snapshot(root, signed_targets, now)
            timestamp = self._timestamp(root, snapshot, now)
            self._prune()
        current: list[tuple[RoleName, datetime]] = [
            ("targets", signed_targets.expires),
            ("snapshot", snapshot.expires),
            ("timestamp", timestamp.expires),
        ]
        return min(expires - self.lives.of(role) / 2 for role, expires in current)

    def root(self) -> Root:
        """The newest root; raises LocalFailure where nothing was published yet."""
        newest = newest_root(self.folder)
        if newest is None:
            raise LocalFailure(f"there is no root in {self.folder}", "node doctor")
        return newest

    def change_root(self, change: Callable[[Root], None], signers: Sequence[PrivateKey], now: datetime) -> Root:
        """Sign a root with the next version (F10); raises LocalFailure where too few keys of the old or new root sign.

        Nothing is written then. What the old root's keys signed is signed anew by the next `publish`.
        """
        with locked(self.folder):
            return self._next_root(self.root(), change, signers, now)

    def _next_root(
        self, old: Root, change: Callable[[Root], None], signers: Sequence[PrivateKey], now: datetime
    ) -> Root:
        new = copy.deepcopy(old)
        change(new)
        new.version, new.expires = old.version + 1, now + self.lives.root
        signed = self._signed(new, [*signers, self.node_key])
        result = new.get_root_verification_result(old, signed.signed_bytes, signed.signatures)
        for which, part in (("this root", result.first), ("the new root", result.second)):
            if not part.verified:
                raise LocalFailure(
                    f"{which} asks for {part.threshold} of {len(part.signed) + len(part.unsigned)} root keys, "
                    f"{len(part.signed)} are at hand",
                    "name the files of the others: --root-key FILE",
                )
        check_root(new)
        write_whole(self._file("root", new.version), signed.to_bytes())
        return new

    def _kept_root(self, now: datetime) -> Root:
        """The newest root, made where there is none, signed anew in time where its keys are at hand."""
        root = newest_root(self.folder)
        if root is None:
            return self._first_root(now)
        self.ring.settle(root)
        if self.node_key.public not in keys_of(root, "targets"):
            raise LocalFailure(
                "this node's key is not the one that its root names", "finish the change: node keys rotate targets"
            )
        if not self._is_due(root, "root", now):
            return root
        try:
            return self._next_root(root, lambda new: None, self.ring.root_keys(root), now)
        except LocalFailure:
            log.warning("the root expires on %s and its keys are not here: node keys rotate root", root.expires.date())
            return root

    def _first_root(self, now: datetime) -> Root:
        root = Root(version=1, expires=now + self.lives.root)
        keys = {role: self.node_key if role == "targets" else self.ring.made(self.ring.file(role)) for role in ROLES}
        for role, key in keys.items():
            root.add_key(library_key(key.public), role)
        check_root(root)
        write_whole(self._file("root", 1), self._signed(root, [keys["root"], self.node_key]).to_bytes())
        return root

    def _targets(self, root: Root, wanted: Mapping[str, Target], now: datetime) -> Targets:
        listed = {name: TargetFile(one.length, {"sha256": one.sha256}, name) for name, one in wanted.items()}
        current = self._current(root, "targets", Targets, now)
        if current is not None and current.targets == listed:
            return current
        return self._write(Targets(self._next_version("targets"), targets=listed), "targets", self.node_key, now)

    def _snapshot(self, root: Root, targets: Targets, now: datetime) -> Snapshot:
        meta = {"targets.json": _described(self._file("targets", targets.version), targets.version)}
        current = self._current(root, "snapshot", Snapshot, now)
        if current is not None and current.meta == meta:
            return current
        key = self.ring.load(self.ring.file("snapshot"))
        return self._write(Snapshot(self._next_version("snapshot"), meta=meta), "snapshot", key, now)

    def _timestamp(self, root: Root, snapshot: Snapshot, now: datetime) -> Timestamp:
        meta = _described(self._file("snapshot", snapshot.version), snapshot.version)
        current = self._current(root, "timestamp", Timestamp, now)
        if current is not None and current.snapshot_meta == meta:
            return current
        before = _parsed(self._file("timestamp", 0), Timestamp)
        version = before.signed.version + 1 if before is not None else 1
        key = self.ring.load(self.ring.file("timestamp"))
        return self._write(Timestamp(version, snapshot_meta=meta), "timestamp", key, now)

    def _current(self, root: Root, role: RoleName, kind: type[T], now: datetime) -> T | None:
        """The newest metadata of a role, if the root's keys have signed it and half its life is left."""
        found = _parsed(self._file(role, max(_versions(self.folder, role), default=0)), kind)
        if found is None or self._is_due(found.signed, role, now):
            return None
        signed = root.get_verification_result(role, found.signed_bytes, found.signatures)
        return found.signed if signed.verified else None

    def _is_due(self, signed: Root | Targets | Snapshot | Timestamp, role: RoleName, now: datetime) -> bool:
        return signed.expires - now < self.lives.of(role) / 2

    def _write(self, signed: T, role: RoleName, key: PrivateKey, now: datetime) -> T:
        signed.expires = now + self.lives.of(role)
        write_whole(self._file(role, signed.version), self._signed(signed, [key]).to_bytes())
        return signed

    def _signed(self, signed: T, keys: Sequence[PrivateKey]) -> Metadata[T]:
        metadata = Metadata(signed)
        for key in keys:
            metadata.sign(library_signer(key), append=True)
        return metadata

    def _file(self, role: RoleName, version: int) -> Path:
        return self.folder / ("timestamp.json" if role == "timestamp" else f"{version}.{role}.json")

    def _next_version(self, role: RoleName) -> int:
        return max(_versions(self.folder, role), default=0) + 1

    def _prune(self) -> None:
        """Remove old targets and snapshots; roots stay, since a child follows all of them."""
        for role in ("targets", "snapshot"):
            for version in _versions(self.folder, role)[:-KEPT_VERSIONS]:
                self._file(role, version).unlink(missing_ok=True)


def newest_root(folder: Path) -> Root | None:
    """The root of the highest version in a repository; None where nothing was published yet. BadData if damaged."""
    versions = _versions(folder, "root")
    if not versions:
        return None
    found = _parsed(folder / f"{versions[-1]}.root.json", Root)
    if found is None:
        raise BadData(f"{folder / f'{versions[-1]}.root.json'} is damaged", "restore the home from a backup")
    return found.signed


def vouched_by(root: Metadata[Root], key: PublicKey) -> bool:
    """Whether a node's key has signed a root that names it as the key of its releases (F5)."""
    return key.id in root.signed.get_verification_result("targets", root.signed_bytes, root.signatures).signed


def _versions(folder: Path, role: RoleName) -> list[int]:
    found = (_VERSIONED.fullmatch(file.name) for file in folder.glob(f"*.{role}.json"))
    return sorted(int(match[1]) for match in found if match)


def _described(file: Path, version: int) -> MetaFile:
    return MetaFile.from_data(version, file.read_bytes(), ["sha256"])


def _parsed(file: Path, kind: type[T]) -> Metadata[T] | None:
    """The metadata in a file of ours; None where there is none, or it is damaged and has to be signed anew."""
    try:
        found = Metadata[T].from_bytes(file.read_bytes())
    except FileNotFoundError:
        return None
    except RepositoryError as error:
        log.warning("%s is damaged: %s", file, error)
        return None
    return found if isinstance(found.signed, kind) else None
