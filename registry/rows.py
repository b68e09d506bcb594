"""Rows of text data: one request and its answer, and how rows are divided into training and held-out parts.

A row's place in the tree and its task travel with it; what a model is asked is decided in `sync.prompt`. Files of
rows that nodes exchange (anchors, transfer sets) are strict JSONL: `input` and `output`, and where a row has them
`task`, `path` and `history`. Reading the many file formats that people have is left to `node.datasets`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticSerializationError

from registry.durable import sync_folder
from registry.errors import BadData, LocalFailure
from registry.paths import NodePath

Split = Literal["train", "validation", "test"]

VALIDATION_PERCENT = 3
TEST_PERCENT = 10

MAX_ROW_BYTES: Final = 1 << 20
MAX_TURNS: Final = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One request (`input`, may be empty) and its expected answer (`output`)."""

    input: str
    output: str
    task: str = ""
    lang: str = ""
    domain: str = ""
    subdomain: str = ""
    group: str = ""  # rows of one group (a parallel pair, a disease) never stand on both sides of a split
    history: tuple[tuple[str, str], ...] = field(default=())  # earlier (role, content) turns


def split_of(row: Row) -> Split:
    """Place a row in a split by a hash of its group, else of its input, else of its answer."""
    key = row.group or row.input.strip().lower() or row.output
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    if bucket < TEST_PERCENT:
        return "test"
    return "validation" if bucket < TEST_PERCENT + VALIDATION_PERCENT else "train"


def of_split(rows: Iterable[Row], split: Split) -> list[Row]:
    """The rows that fall into one split, in their order."""
    return [row for row in rows if split_of(row) == split]


def read_tree_rows(file: Path) -> Iterator[Row]:
    """Read a data set of the tree (`id, lang, domain, subdomain, task, input, output`), one JSON object per line."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            yield Row(
                input=record["input"],
                output=record["output"],
                task=record["task"],
                lang=record["lang"],
                domain=record["domain"],
                subdomain=record["subdomain"],
                group=record.get("pair", ""),
            )


class RowLine(BaseModel):
    """A row as it is written."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    input: str
    output: str
    task: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    path: Annotated[str, Field(min_length=1, max_length=250)] | None = None
    history: Annotated[tuple[tuple[str, str], ...], Field(min_length=1, max_length=MAX_TURNS)] | None = None

    @classmethod
    def of(cls, row: Row) -> Self:
        """The line of a row."""
        path = "/".join((row.lang, row.domain, row.subdomain)).rstrip("/")
        return cls(
            input=row.input, output=row.output, task=row.task or None, path=path or None, history=row.history or None
        )

    def row(self) -> Row:
        """The row. Raises BadData for a path that is none."""
        parts = str(NodePath.parse(self.path)).split("/", 2) if self.path else []
        lang, domain, subdomain = parts + [""] * (3 - len(parts))
        return Row(self.input, self.output, self.task or "", lang, domain, subdomain, history=self.history or ())


AnyLine = TypeVar("AnyLine", bound=RowLine)


def read_rows(file: Path, max_bytes: int, max_rows: int | None = None) -> list[Row]:
    """Read rows, one JSON object on each line (U10, C21); no unknown key, no key twice, no blank line.

    Raises BadData naming the line, or for more than `max_bytes` or `max_rows`, before any row is made; LocalFailure if
    the file cannot be read.
    """
    return [line.row() for line in read_lines(RowLine, file, max_bytes, max_rows)]


def read_lines(form: type[AnyLine], file: Path, max_bytes: int, max_rows: int | None = None) -> list[AnyLine]:
    """The same for any form of lines."""
    try:
        with file.open("rb") as source:
            data = source.read(max_bytes + 1)
    except OSError as error:
        raise LocalFailure(f"cannot read {file}: {error.strerror}") from error
    if len(data) > max_bytes:
        raise BadData(f"{file.name} is larger than {max_bytes} bytes")
    if max_rows is not None and data.removesuffix(b"\n").count(b"\n") >= max(1, max_rows):
        raise BadData(f"{file.name} has more than {max_rows} rows")
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    return [_read_line(form, line, f"{file.name}, line {number}") for number, line in enumerate(lines, 1)]


def write_rows(rows: Iterable[Row], file: Path) -> None:
    """Write rows to a new file or over an old one, through to the disk; the same rows give the same bytes.

    A row's `group` stays behind: it divides the rows of one node and means nothing to another. Raises BadData for
    a row that `read_rows` would refuse, LocalFailure if the file cannot be written, which then is not there.
    """
    write_lines(RowLine, (partial(RowLine.of, row) for row in rows), file)


def write_lines(form: type[AnyLine], makers: Iterable[Callable[[], AnyLine]], file: Path) -> None:
    """The same for any form of lines, each made when its turn comes."""
    lines = [_write_line(form, make, f"row {number}") for number, make in enumerate(makers, 1)]
    try:
        file.touch(mode=0o600)
        with file.open("wb") as out:
            out.write(b"".join(lines))
            out.flush()
            os.fsync(out.fileno())
        sync_folder(file.parent)
    except OSError as error:
        file.unlink(missing_ok=True)
        raise LocalFailure(f"cannot write {file}: {error.strerror}") from error


Asked = tuple[str, str, tuple[tuple[str, str], ...]]


def asked(row: Row) -> Asked:
    """What a row asks: rows that ask the same expect the same answer."""
    return row.input, row.task, row.history


def contradictions(rows: Iterable[Row]) -> set[Asked]:
    """What rows ask that expect different answers to the same."""
    answers: dict[Asked, str] = {}
    return {asked(row) for row in rows if answers.setdefault(asked(row), row.output) != row.output}


def refuse_contradictions(rows: Iterable[Row], where: str) -> None:
    """Raise BadData where two rows ask the same and expect different answers: no model can know both."""
    found = contradictions(rows)
    if found:
        first = min(found)[0]
        raise BadData(
            f"{where} contradicts itself: {len(found)} requests have two answers, such as {first!a:.80}",
            "keep one answer of each",
        )


def _read_line(form: type[AnyLine], line: bytes, where: str) -> AnyLine:
    if len(line) > MAX_ROW_BYTES:
        raise BadData(f"{where}: longer than {MAX_ROW_BYTES} bytes")
    try:
        found = form.model_validate_json(line)
        found.row()
        json.loads(line, object_pairs_hook=_refuse_repeats)
    except ValidationError as error:
        raise BadData(f"{where}: {_first_error(error)}") from error
    except BadData as error:
        raise BadData(f"{where}: {error.message}", hint=error.hint) from error
    return found


def _refuse_repeats(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise BadData("a key stands there twice")


def _write_line(form: type[AnyLine], make: Callable[[], AnyLine], where: str) -> bytes:
    try:
        line = make().model_dump_json(exclude_none=True).encode()
    except ValidationError as error:
        raise BadData(f"{where} cannot be written: {_first_error(error)}") from error
    except PydanticSerializationError as error:
        raise BadData(f"{where} cannot be written: it holds a character that is not text") from error
    _read_line(form, line, where)
    return line + b"\n"


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the row'!a:.60}: {first['msg']}"
