"""A data file as rows: its format detected, every record checked, duplicates counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from node.datasets.files import DataFile, Limits, examine
from node.datasets.formats import FORMATS, Format, format_of, missing_columns, unknown_columns
from node.datasets.records import Record, place, records
from registry.errors import BadData
from registry.rows import Row

Shown = TypeVar("Shown")

LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Dataset:
    """The rows of a file, in its order, and what is worth telling about them."""

    file: DataFile
    format: Format
    rows: list[Row]
    duplicates: tuple[tuple[int, int], ...]  # (line, line of its first appearance)
    ignored: tuple[str, ...]  # columns of the first record that the format has no use for

    def notes(self) -> list[str]:
        """What a person should know before training on the file."""
        notes: list[str] = []
        if self.duplicates:
            shown = ", ".join(f"line {line} repeats {first}" for line, first in self.duplicates[:3])
            notes.append(f"{len(self.duplicates):,} of {len(self.rows):,} rows are repeated word for word ({shown})")
        if self.ignored:
            notes.append(f"columns not used: {', '.join(self.ignored)}")
        return notes


def detect(file: Path, limits: Limits = LIMITS) -> Format:
    """The format of a file, by the columns of its first record; raises BadData where no format takes them."""
    examined = examine(file, limits)
    for record in records(examined, limits):
        return _format(examined, record)
    raise _no_rows(examined)


def load(file: Path, format: Format | None = None, limits: Limits = LIMITS) -> list[Row]:  # noqa: A002
    """The rows of a file; see `read`."""
    return read(file, format, limits).rows


def read(file: Path, format: Format | None = None, limits: Limits = LIMITS) -> Dataset:  # noqa: A002
    """Read a file within `limits`, in the given format or the detected one.

    Raises BadData at the first record that is wrong, with file, line, cause and next step.
    """
    examined = examine(file, limits)
    rows: list[Row] = []
    duplicates: list[tuple[int, int]] = []
    ignored: tuple[str, ...] = ()
    seen: dict[int, int] = {}
    for record in records(examined, limits):
        if format is None:
            format = _format(examined, record)  # noqa: A001
        if not rows:
            known = (*FORMATS[format].required, *FORMATS[format].optional)
            ignored = tuple(name for name in record.fields if name not in known)
        for row in _rows(examined, record, format, first=not rows):
            key = hash((row.task, row.history, row.input, row.output))
            if key in seen:
                duplicates.append((record.number, seen[key]))
            seen.setdefault(key, record.number)
            rows.append(row)
        if len(rows) > limits.rows:
            raise BadData(f"{file} has more than {limits.rows:,} answers to learn", "take a sample of the rows")
    if format is None or not rows:
        raise _no_rows(examined)
    return Dataset(examined, format, rows, tuple(duplicates), ignored)


def preview(rows: Sequence[Row], count: int, render: Callable[[Row], Shown]) -> list[Shown]:
    """`count` rows from the beginning, the middle and the end, rendered."""
    count = min(count, len(rows))
    places = [round(i * (len(rows) - 1) / max(1, count - 1)) for i in range(count)]
    return [render(rows[at]) for at in places]


def _format(file: DataFile, record: Record) -> Format:
    found = format_of(record.fields)
    if found is None:
        error = unknown_columns(record.fields)
        raise BadData(f"{place(file, record.number)}: {error.message}", error.hint)
    return found


def _rows(file: DataFile, record: Record, layout_name: Format, *, first: bool) -> list[Row]:
    """The rows of one record; its errors get the file and the line."""
    layout = FORMATS[layout_name]
    try:
        if not layout.takes(record.fields):
            other = format_of(record.fields)
            if other and not first:
                raise BadData(
                    f"the columns are those of {other}, but the rows before are {layout_name}",
                    "put rows of different formats into different files",
                )
            raise missing_columns(layout_name, record.fields)
        rows = layout.rows(record.fields)
        if any("\ud800" <= char <= "\udfff" for row in rows for char in "".join(_texts(row))):
            raise BadData("a text holds half a character (a lone surrogate)", "write the text again in UTF-8")
    except BadData as error:
        raise BadData(f"{place(file, record.number)}: {error.message}", error.hint) from None
    return rows


def _texts(row: Row) -> list[str]:
    return [row.input, row.output, row.task, row.group, *(content for _, content in row.history)]


def _no_rows(file: DataFile) -> BadData:
    return BadData(f"{file.path} has a header or brackets but no rows", "write at least one row")
