"""Validation rows: what candidates are judged on. They stay on this node; an operator may replace the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from registry.home import Home
from registry.paths import NodePath
from registry.rows import Row, read_rows, write_rows

MAX_BYTES: Final = 64 << 20


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


def validation_rows(home: Home, path: NodePath) -> list[Row]:
    """The rows of a path and of every place above it, nearest first: what is known above must not be lost below."""
    rows: list[Row] = []
    for place in reversed(path.chain()):
        file = _file(home, place)
        if file.exists():
            rows += read_rows(file, MAX_BYTES)
    return rows


def _file(home: Home, path: NodePath) -> Path:
    return home.validation / f"{str(path).replace('/', '.')}.jsonl"


def _write(rows: Sequence[Row], file: Path) -> None:
    partial = file.with_suffix(".partial")
    write_rows(rows, partial)
    partial.replace(file)
