"""A folder that appears whole or not at all, at a place that a person chose.

It is filled beside its place under a name that says which process fills it, so that what a killed process left is
found and removed by the next one that writes to the same place.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from registry.errors import BadData, LocalFailure


@contextmanager
def new_folder(target: Path, option: str) -> Iterator[Path]:
    """A folder to fill with files, which becomes `target` at the end; after an error nothing of it remains.

    `option` is the one by which a person names another place, for the hint.

    Raises BadData when something is there already, LocalFailure when it cannot be written.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(target)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise BadData(f"{target} exists already", f"give another folder ({option}), or remove this one")
        partial.mkdir()
        yield partial
        for file in partial.iterdir():
            _sync(file)
        _sync(partial)
        partial.replace(target)  # over an empty folder, too
        _sync(target.parent)
    except OSError as error:
        raise LocalFailure(
            f"cannot write {target}: {error.strerror or error}", "check the disk and who owns the folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_left_over(target: Path) -> None:
    """Remove what processes that are gone, or this one, left half done."""
    for folder in target.parent.glob(f".{target.name}.*.partial"):
        pid = folder.name.removesuffix(".partial").rpartition(".")[2]
        if pid.isdecimal() and (int(pid) == os.getpid() or not psutil.pid_exists(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
