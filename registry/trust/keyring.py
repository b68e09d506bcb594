"""The private keys of a node's roles: one file each beside the node's own, all under one passphrase.

A key that is to replace another is written as `NAME.next` first and takes its place once a root names it; so a kill
between the two loses neither. A root key may lie elsewhere: then its file is named where it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tuf.api.metadata import Root

from registry.durable import sync_folder
from registry.keys import PrivateKey
from registry.trust.roles import RoleName, keys_of

FILES: Final[dict[RoleName, str]] = {
    "root": "root.pem",
    "targets": "node.pem",
    "snapshot": "snapshot.pem",
    "timestamp": "timestamp.pem",
}


@dataclass(frozen=True, slots=True)
class Keyring:
    """The folder with the key files of a node, and their passphrase."""

    folder: Path
    passphrase: str | None = field(default=None, repr=False)

    def file(self, role: RoleName) -> Path:
        """Where the key of a role lies."""
        return self.folder / FILES[role]

    def load(self, file: Path) -> PrivateKey:
        """A key by its file; raises LocalFailure or BadData (K6)."""
        return PrivateKey.load(file, self.passphrase)

    def made(self, file: Path) -> PrivateKey:
        """The key of a file, made where there is none yet."""
        if not file.exists():
            PrivateKey.generate().save(file, self.passphrase)
        return self.load(file)

    def next(self, role: RoleName) -> PrivateKey:
        """The key that is to replace that of a role; the same one until it has done so."""
        return self.made(_next(self.file(role)))

    def promote(self, role: RoleName) -> None:
        """Put the next key of a role in its place."""
        following = _next(self.file(role))
        if following.exists():
            following.replace(self.file(role))
            sync_folder(self.folder)

    def settle(self, root: Root) -> None:
        """Finish what a killed rotation left: a next key that the root names takes its place.

        Not that of `targets`, the node's own: more hangs on it than a file.
        """
        for role in ("root", "snapshot", "timestamp"):
            following = _next(self.file(role))
            if following.exists() and self.load(following).public in keys_of(root, role):
                self.promote(role)

    def root_keys(self, root: Root, elsewhere: Sequence[Path] = ()) -> list[PrivateKey]:
        """The keys at hand that a root names for its own role, without repeats."""
        here = [file for file in (self.file("root"), *elsewhere) if file in elsewhere or file.exists()]
        found = {key.public.id: key for key in map(self.load, here)}
        return [key for key in found.values() if key.public in keys_of(root, "root")]


def _next(file: Path) -> Path:
    return file.with_name(f"{file.name}.next")
