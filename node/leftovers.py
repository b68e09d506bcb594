"""What ended processes left in a home: removed once nothing can need it any more.

In `partial/` files on their way in, in `bases/` bases being laid out, in `runs/` repeated runs, candidates
where none is being made, and the checkpoints of fine-tunes whose release is made.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from node.context import Node
from node.run_lock import run_lock
from registry.errors import LocalFailure
from registry.paths import NodePath
from registry.store import select
from registry.tables import RunRow
from sync.inbox import unfinished
from sync.review import UPLOAD_TIME


def sweep(node: Node, now: datetime) -> int:
    """Remove what was left and not touched for as long as an upload may take; returns how many files and folders.

    An update whose files are still awaited then is rejected anyway; a transfer in the other direction begins anew. What
    cannot be removed stays for the next time.
    """
    before = (now - UPLOAD_TIME).timestamp()
    removed = node.blobs.sweep(before)
    for folder in _folders(node):
        if _touched(folder) < before:
            shutil.rmtree(folder, ignore_errors=True)
            removed += not folder.exists()
    return removed + _checkpoints(node)


def _folders(node: Node) -> Iterator[Path]:
    """Folders that nothing refers to, unless the process that fills them is still at work."""
    yield from node.home.partial.glob("*/")
    yield from node.home.bases.glob(".new-*/")
    yield from node.home.runs.glob("repeat-*/")
    if not unfinished(node.store):
        yield from node.home.runs.glob("release-*/")


def _touched(folder: Path) -> float:
    """When something in a folder, or below it, was last written; epoch seconds, never where it is gone."""
    with suppress(FileNotFoundError):
        return max(file.lstat().st_mtime for file in (folder, *folder.rglob("*")))
    return float("inf")


def _checkpoints(node: Node) -> int:
    """Remove the checkpoints of finished runs; a path at work is left alone."""
    with node.store.read() as session:
        done = select(RunRow).where(RunRow.kind == "finetune", RunRow.state == "done")
        runs = [(row.id, row.path) for row in session.scalars(done)]
    removed = 0
    for run, path in runs:
        folder = node.home.runs / run / "fit"
        if folder.is_dir():
            with suppress(LocalFailure), run_lock(node.home, NodePath.parse(path)):
                shutil.rmtree(folder, ignore_errors=True)
                removed += not folder.exists()
    return removed
