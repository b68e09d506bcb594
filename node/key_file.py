"""The passphrase of the node's key file: where it comes from, and giving the file another one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from node.settings import PASSPHRASE_VARIABLE
from registry.errors import BadData, LocalFailure
from registry.keys import MAX_KEY_FILE_BYTES, PrivateKey

MIN_PASSPHRASE_CHARS = 8


def is_locked(file: Path) -> bool:
    """Whether a key file says that it needs a passphrase; false where there is none to be read."""
    try:
        with file.open("rb") as source:
            return b"BEGIN ENCRYPTED PRIVATE KEY" in source.read(MAX_KEY_FILE_BYTES)
    except OSError:
        return False


def find_passphrase(file: Path, environ: Mapping[str, str], ask: Callable[[], str] | None) -> str | None:
    """The passphrase of a key file: from the environment, else from `ask`; None where the file needs none."""
    if PASSPHRASE_VARIABLE in environ:
        return environ[PASSPHRASE_VARIABLE]
    return ask() if ask is not None and is_locked(file) else None


def change_passphrases(files: Iterable[Path], old: str | None, new: str | None) -> None:
    """Write every key file under another passphrase; one that a killed call has rewritten already is left as it is."""
    for file in files:
        if _opens(file, new) and not _opens(file, old):
            continue
        change_passphrase(file, old, new)


def _opens(file: Path, passphrase: str | None) -> bool:
    try:
        PrivateKey.load(file, passphrase)
    except BadData:
        return False
    return True


def change_passphrase(file: Path, old: str | None, new: str | None) -> None:
    """Write the key under another passphrase (None: under none), then put it in the old file's place in one step."""
    if new is not None and len(new) < MIN_PASSPHRASE_CHARS:
        raise BadData(f"the passphrase has fewer than {MIN_PASSPHRASE_CHARS} characters", "take a longer one")
    key = PrivateKey.load(file, old)
    for left in file.parent.glob(f"{file.name}.new-*"):  # of a call that was killed
        left.unlink(missing_ok=True)
    partial = file.with_name(f"{file.name}.new-{secrets.token_hex(4)}")
    key.save(partial, new)
    try:
        partial.replace(file)
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise LocalFailure(f"cannot replace {file}: {error.strerror}", "node doctor") from error
