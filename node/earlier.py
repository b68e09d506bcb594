"""Own rows of earlier runs at a path, as the folders of the runs keep them: what going on must not forget.

They never leave this machine. Which of them are rehearsed and scored is `node.material`'s to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.context import Node
from registry.errors import LocalFailure
from registry.paths import NodePath
from registry.rows import Row, read_rows
from registry.store import select
from registry.tables import RunRow

MAX_ROWS_BYTES: Final = 256 << 20
MAX_RUNS: Final = 24  # each is scored before and after; of more, the latest


@dataclass(frozen=True, slots=True)
class EarlierRun:
    """The own rows of a finished run: what it trained on, what it held out. `digest` names exactly these rows."""

    run: str
    train: tuple[Row, ...]
    test: tuple[Row, ...]
    digest: str


def earlier_runs(node: Node, path: NodePath) -> list[EarlierRun]:
    """The finished runs of a path whose rows are still here, the first one first."""
    done = select(RunRow.id).where(RunRow.path == str(path), RunRow.kind == "finetune", RunRow.state == "done")
    with node.store.read() as session:
        runs = list(session.scalars(done.order_by(RunRow.changed.desc(), RunRow.id)))
    found = (run for name in runs if (run := _read(node.home.runs / name)) is not None)
    return [run for run, _ in zip(found, range(MAX_RUNS), strict=False)][::-1]


def named_runs(node: Node, wanted: Sequence[tuple[str, str]]) -> list[EarlierRun]:
    """Runs by name and digest of their rows, in this order. Raises LocalFailure where one is not here as it was."""
    found = []
    for name, digest in wanted:
        run = _read(node.home.runs / name)
        if run is None or run.digest != digest:
            raise LocalFailure(
                f"the rows of the earlier run {name} are not in {node.home.runs / name} as they were",
                "repeat it on the node that ran it, with the folders of its runs as they were",
            )
        found.append(run)
    return found


def own_rows(node: Node, path: NodePath) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows of all the runs of a path; of a request that was asked twice, the latest answer."""
    runs = earlier_runs(node, path)
    train = {request(row): row for run in runs for row in run.train}
    test = {request(row): row for run in runs for row in run.test}
    ordered = sorted(test.items(), key=lambda item: hashlib.sha256(repr(item[0]).encode()).digest())
    return list(train.values()), [row for asked, row in ordered if asked not in train]


def request(row: Row) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """What a row asks: two rows that ask the same and answer otherwise contradict each other."""
    return row.input.strip(), row.task, row.history


def _read(folder: Path) -> EarlierRun | None:
    """The rows in the folder of a run; None where they were removed."""
    files = [folder / "train.jsonl", folder / "test.jsonl"]
    if not all(file.is_file() for file in files):
        return None
    digest = hashlib.sha256(b"".join(_digests(files))).hexdigest()
    train, test = (tuple(read_rows(file, MAX_ROWS_BYTES)) for file in files)
    return EarlierRun(folder.name, train, test, digest)


def _digests(files: Sequence[Path]) -> Iterator[bytes]:
    for file in files:
        with file.open("rb") as source:
            yield hashlib.file_digest(source, "sha256").digest()
