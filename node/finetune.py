"""`node finetune`: own rows become an adapter, the adapter a signed release at a path of this node.

    rows -> footing -> manifest -> memory -> scored -> trained -> scored -> release

Every step either is done again to the same result or has left its outcome in the run's folder, so the same command
goes on after a kill at any moment, and answers with what is there when all is done. What goes before the first step is
in `node.preparation`, the steps in `node.training`, the loop in `sync.train`; offering the result to the parent is left
to `node.publish`, repeating a run to `node.repeat`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from node.context import Node
from node.manifest import RunManifest
from node.material import Material
from node.preparation import FinetuneRequest, Prepared, default_plan, prepare
from node.result import Outcome, finished_run, note_run, store_result
from node.run_lock import run_lock
from node.training import OnProgress, Training, ignore, write_whole
from registry.durable import make_folder
from registry.errors import BanyanError, LocalFailure
from registry.paths import NodePath
from registry.rows import Row, Split, write_rows

__all__ = ["FinetuneRequest", "FinetuneResult", "check_disk", "default_plan", "failures", "finetune"]

SAVE_MEMORY = "close other programs, or lower --batch-tokens"
REMEDIES = (
    ("No space left", "free some disk space"),
    ("allocate memory", SAVE_MEMORY),
    ("out of memory", SAVE_MEMORY),
)
COPIES_ON_DISK = 7  # of the adapter: checkpoint with two moments, best, result, and two being written


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """The plan, and what came of it; `outcome` is None after a dry run."""

    state: Literal["planned", "done", "done before"]
    run: str
    folder: Path
    prepared: Prepared
    outcome: Outcome | None


def finetune(
    node: Node,
    path: NodePath,
    request: FinetuneRequest,
    on_progress: OnProgress = ignore,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> FinetuneResult:
    """Fine-tune the model of a path on a file of rows and make the result the head of that path.

    Raises BadData for rows or options that cannot be used, LocalFailure when there is nothing to start from, too little
    memory or disk, or another process at work on the path. The same call again goes on after any end.
    """
    if request.dry_run:
        prepared = prepare(node, path, request)
        return _result(node, "planned", prepared, None)
    with run_lock(node.home, path):
        prepared = prepare(node, path, request)
        earlier = finished_run(node, prepared.footing, prepared.manifest)
        if earlier is not None:
            return _result(node, "done before", replace(prepared, manifest=earlier[0]), earlier[1])
        if prepared.refusal is not None:
            raise prepared.refusal
        return _result(node, "done", prepared, _run(node, prepared, on_progress, now))


def _run(node: Node, prepared: Prepared, on_progress: OnProgress, now: Callable[[], datetime]) -> Outcome:
    """Go through the run, or on with it."""
    manifest = prepared.manifest
    folder = node.home.runs / manifest.run_id
    started = time.monotonic()
    node.blobs.put_bytes(manifest.to_bytes())
    note_run(node, manifest, "running", {}, now())
    try:
        with failures(folder):
            check_disk(node, prepared)
            _lay_out(folder, manifest, prepared.material)
            training = Training(node, prepared.footing, manifest, prepared.material, folder, on_progress)
            scored = training.scored()
            seconds = time.monotonic() - started
            outcome = store_result(node, prepared, scored, seconds=seconds, now=now())
    except BanyanError as error:
        with suppress(BanyanError):  # where the disk is full, the database cannot be told either
            note_run(node, manifest, "failed", {"error": error.message}, now())
        raise
    shutil.rmtree(folder / "fit", ignore_errors=True)  # checkpoints
    return outcome


def _lay_out(folder: Path, manifest: RunManifest, material: Material) -> None:
    """The folder with what goes in: the manifest, and the own rows as `publish` and a later rebase read them."""
    make_folder(folder)
    splits: dict[Split, list[Row]] = {
        "train": [example.row for example in material.train[: material.own["train"]]],
        "validation": [example.row for example in material.validation[: material.own["validation"]]],
        "test": material.test,
    }
    for name, rows in splits.items():
        write_rows(rows, folder / f"{name}.jsonl")
    write_whole(folder / "manifest.json", manifest.to_bytes())


def check_disk(node: Node, prepared: Prepared) -> None:
    """Raise LocalFailure when the disk has too little room for a run."""
    needed = prepared.memory.adapter // 4 * COPIES_ON_DISK + prepared.manifest.data.size_bytes * 2
    free = shutil.disk_usage(node.home.root).free
    if needed > free:
        raise LocalFailure(
            f"the run needs {needed:,} bytes of disk, {free:,} are free in {node.home.root}",
            "free some space, then repeat the same command",
        )


@contextmanager
def failures(folder: Path) -> Iterator[None]:
    """What the disk and the memory could not do, in our words; the libraries have no one error for either."""
    try:
        yield
    except BanyanError:
        raise
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = next((step for words, step in REMEDIES if words in str(error)), None)
        if isinstance(error, MemoryError):
            remedy = SAVE_MEMORY
        if remedy is None and not isinstance(error, OSError):
            raise
        raise LocalFailure(
            f"the run in {folder} could not go on: {first}",
            f"{remedy or 'node doctor'}; the same command then goes on where it was",
        ) from error


def _result(
    node: Node, state: Literal["planned", "done", "done before"], prepared: Prepared, outcome: Outcome | None
) -> FinetuneResult:
    run = prepared.manifest.run_id
    return FinetuneResult(state, run, node.home.runs / run, prepared, outcome)
