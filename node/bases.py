"""A base as a folder that model libraries load: the files of its manifest under their names, hashed at each use.

The files are hard links to the blobs, so a base costs its bytes once. Fetching the blobs is left to `sync.pull`,
making a manifest of somebody's model to `node.importing`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from registry.blobs import BlobStore
from registry.documents import BaseManifest, File
from registry.envelope import MAX_ENVELOPE_BYTES
from registry.errors import LocalFailure
from registry.home import Home


def read_manifest(blobs: BlobStore, digest: str) -> BaseManifest:
    """The manifest of a base by its digest. Raises LocalFailure when it is not here, BadData when it is damaged."""
    return BaseManifest.from_bytes(blobs.read(digest, MAX_ENVELOPE_BYTES))


def base_folder(home: Home, blobs: BlobStore, digest: str) -> Path:
    """The folder of a base, made from the blobs when it is not there or not as it should be.

    It appears whole or not at all. Raises LocalFailure when a file is not here or the disk is full, BadData when a
    blob is damaged (it is then set aside, to be fetched again).
    """
    manifest = read_manifest(blobs, digest)
    folder = home.bases / digest
    if _is_sound(folder, manifest):
        return folder
    try:
        with tempfile.TemporaryDirectory(dir=home.bases, prefix=".new-") as temporary:
            new = Path(temporary, "new")
            new.mkdir(mode=0o700)
            for file in manifest.files:
                _place(blobs.open_verified(file.sha256), new / file.name)
            if folder.exists():
                folder.rename(Path(temporary, "old"))
            try:
                new.rename(folder)
            except OSError:
                if not _is_sound(folder, manifest):  # else another process was quicker
                    raise
    except OSError as error:
        raise LocalFailure(
            f"cannot lay out the base {manifest.name} in {home.bases}: {error.strerror}", "free some disk space"
        ) from error
    return folder


def _place(blob: Path, target: Path) -> None:
    """Link a blob under a name; copy it where the file system has no hard links."""
    try:
        os.link(blob, target)
    except OSError:
        shutil.copyfile(blob, target)


def _is_sound(folder: Path, manifest: BaseManifest) -> bool:
    """Whether a folder holds the files of a manifest, with their bytes, and nothing else."""
    try:
        names = {entry.name for entry in os.scandir(folder)}
        return names == {file.name for file in manifest.files} and all(
            _is_file(folder / file.name, file) for file in manifest.files
        )
    except OSError:
        return False


def _is_file(path: Path, file: File) -> bool:
    if path.is_symlink() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest() == file.sha256
