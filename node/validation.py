"""Validation rows: what candidates are judged on. They stay on this node; an operator may replace the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from registry.durable import sync_folder
from registry.errors import LocalFailure
from registry.home import Home
from registry.paths import NodePath
from registry.rows import Row, read_rows, refuse_contradictions, write_rows

MAX_BYTES: Final = 64 << 20
MAX_CANARIES: Final = 200  # every update is asked all of them


def store_validation(home: Home, path: NodePath, rows: Sequence[Row]) -> None:
    """Write the rows of a path, unless somebody has put rows there."""
    file = _file(home, path)
    if not file.exists():
        _write(rows, file)


def add_validation(home: Home, path: NodePath, rows: Sequence[Row]) -> None:
    """Add rows of a path to what later candidates are judged on; a row that is there already is not added again."""
    file = _file(home, path)
    known = read_rows(file, MAX_BYTES) if file.exists() else []
    inputs = {(row.input, row.task) for row in known}
    _write([*known, *(row for row in rows if (row.input, row.task) not in inputs)], file)


def remove_validation(home: Home, path: NodePath, rows: Sequence[Row]) -> None:
    """Take rows of a path away again, those with the same request, task and answer."""
    file = _file(home, path)
    if file.exists():
        gone = {(row.input, row.task, row.output) for row in rows}
        known = read_rows(file, MAX_BYTES)
        _write([row for row in known if (row.input, row.task, row.output) not in gone], file)


def validation_rows(home: Home, path: NodePath) -> list[Row]:
    """The rows of a path and of every place above it, nearest first: what is known above must not be lost below."""
    return [row for place in reversed(path.chain()) for row in rows_of(home, place)]


def rows_of(home: Home, place: NodePath) -> list[Row]:
    """The rows of a place itself. Raises BadData where the file cannot be read or two rows contradict each other."""
    file = _file(home, place)
    if not file.exists():
        return []
    rows = read_rows(file, MAX_BYTES)
    refuse_contradictions(rows, str(file))
    return rows


def canary_rows(home: Home, path: NodePath) -> list[Row]:
    """The prompts of a path, and of every place above it, whose answers must stay; an operator writes these files."""
    files = [home.canaries / _file(home, place).name for place in reversed(path.chain())]
    return [row for file in files if file.exists() for row in read_rows(file, MAX_BYTES)][:MAX_CANARIES]


def _file(home: Home, path: NodePath) -> Path:
    return home.validation / f"{str(path).replace('/', '.')}.jsonl"


def _write(rows: Sequence[Row], file: Path) -> None:
    partial = file.with_suffix(".partial")
    write_rows(rows, partial)
    try:
        partial.replace(file)
        sync_folder(file.parent)
    except OSError as error:
        raise LocalFailure(f"cannot write {file}: {error.strerror}", "node doctor") from error
