"""Names that survive a power cut: a file or folder is there for good only once the folder that names it is synced."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder for its owner alone, with those above it, unless it is there; its name is then on the disk.

    Raises OSError.
    """
    if folder.is_dir():
        return
    missing = [place for place in (folder, *folder.parents) if not place.is_dir()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for place in missing:
        sync_folder(place.parent)
