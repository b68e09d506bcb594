"""Records of a data file, one at a time: objects of JSONL and JSON, lines of CSV and TSV, rows of Parquet.

What the columns mean is left to `formats`; bytes and encoding were checked by `files`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from pyarrow import ArrowException
from pyarrow.parquet import ParquetFile

from node.datasets.files import Container, DataFile, Limits
from registry.errors import BadData

BATCH_ROWS = 256
ONE_PER_LINE = "write one whole JSON object per line (jq -c does it)"
NOT_SPACE = re.compile(r"[^\s,]")


@dataclass(frozen=True, slots=True)
class Record:
    """The fields of one row and the line (Parquet: the row) where it begins, from 1."""

    number: int
    fields: dict[str, Any]


def place(file: DataFile, number: int) -> str:
    """A record's place as people look for it."""
    return f"{file.path}, {'row' if file.container == 'parquet' else 'line'} {number}"


def records(file: DataFile, limits: Limits) -> Iterator[Record]:
    """The records of a file in their order; raises BadData at the first that cannot be read."""
    if file.container == "parquet":
        source = _parquet(file, limits)
    elif file.container == "jsonl":
        source = _json_lines(file, limits)
    elif file.container == "json":
        source = _json_list(file, limits)
    else:
        source = _table(file, limits)
    for count, record in enumerate(source, start=1):
        if count > limits.rows:
            raise BadData(f"{file.path} has more than {limits.rows:,} rows", "take a sample of the rows")
        yield record


def _too_long(file: DataFile, number: int, limits: Limits) -> BadData:
    return BadData(
        f"{place(file, number)}: the row has more than {limits.row_chars:,} characters",
        "split long documents into rows of a few paragraphs; a model reads at most some thousand characters",
    )


def _object(file: DataFile, number: int, value: object) -> Record:
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
        raise BadData(f"{place(file, number)}: {kind} stands where an object with columns is expected", ONE_PER_LINE)
    return Record(number, value)


def _json_lines(file: DataFile, limits: Limits) -> Iterator[Record]:
    with file.path.open(encoding="utf-8-sig", newline="\n") as stream:
        number = 0
        while line := stream.readline(limits.row_chars + 1):
            number += 1
            if len(line) > limits.row_chars:
                raise _too_long(file, number, limits)
            if line.strip():
                yield _object(file, number, _parsed(file, number, line))


def _parsed(file: DataFile, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(line.rstrip()) or error.msg.startswith("Unterminated string")
        cause = "the JSON object is cut off" if cut else f"not JSON at column {error.colno}: {error.msg}"
        raise BadData(f"{place(file, number)}: {cause}", f"complete or remove the line; {ONE_PER_LINE}") from None
    except (ValueError, RecursionError) as error:
        raise BadData(f"{place(file, number)}: not usable JSON: {error}", ONE_PER_LINE) from None


def _json_list(file: DataFile, limits: Limits) -> Iterator[Record]:
    """Elements of one big list, decoded one by one from a window of bounded size."""
    decoder = json.JSONDecoder()
    with file.path.open(encoding="utf-8-sig") as stream:
        window, line = _after_bracket(stream)
        while True:
            found = NOT_SPACE.search(window)
            if found is None:
                line += window.count("\n")
                window = stream.read(limits.row_chars)
                if not window:
                    raise BadData(
                        f"{place(file, line)}: the JSON list is cut off", "close it with ], or convert to JSONL"
                    )
                continue
            line += window.count("\n", 0, found.start())
            window = window[found.start() :]
            if window[0] == "]":
                return
            if window[0] != "{":
                raise BadData(f"{place(file, line)}: an object with columns is expected", "give a list of objects")
            if len(window) <= limits.row_chars:
                window += stream.read(limits.row_chars)  # now an element of the longest length is in sight
            value, end = _element(file, line, decoder, window, limits)
            yield _object(file, line, value)
            line += window.count("\n", 0, end)
            window = window[end:]


def _after_bracket(stream: TextIO) -> tuple[str, int]:
    """What follows the opening bracket in the first block, and the line where that begins."""
    before, _, window = stream.read(4096).partition("[")
    return window, 1 + before.count("\n")


def _element(file: DataFile, line: int, decoder: json.JSONDecoder, window: str, limits: Limits) -> tuple[Any, int]:
    try:
        value, end = decoder.raw_decode(window)
    except json.JSONDecodeError as error:
        cut = error.msg.startswith("Unterminated string") or error.pos >= len(window.rstrip())
        if cut and len(window) > limits.row_chars:
            raise _too_long(file, line, limits) from None
        at = place(file, line + window.count("\n", 0, error.pos))
        cause = "the JSON list is cut off" if cut else f"not JSON: {error.msg}"
        raise BadData(f"{at}: {cause}", "correct the list of objects, or convert it to JSONL") from None
    except (ValueError, RecursionError) as error:
        raise BadData(f"{place(file, line)}: not usable JSON: {error}", "correct the list of objects") from None
    if end > limits.row_chars:
        raise _too_long(file, line, limits)
    return value, end


def _table(file: DataFile, limits: Limits) -> Iterator[Record]:
    with file.path.open(encoding="utf-8-sig", newline="") as stream:
        first = stream.readline(limits.row_chars)
        stream.seek(0)
        reader = csv.reader(stream, delimiter=_delimiter(file.container, first), strict=True)
        number = 1
        try:
            header = [name.strip() for name in next(reader)]
            _check_header(file, header)
            number = reader.line_num + 1
            for cells in reader:
                if cells:
                    _check_cells(file, number, header, cells, limits)
                    yield Record(number, dict(zip(header, cells, strict=True)))
                number = reader.line_num + 1
        except csv.Error as error:
            if "field larger" in str(error):
                raise _too_long(file, number, limits) from None
            cause = "a quotation mark is not closed" if "unexpected end" in str(error) else str(error)
            raise BadData(f"{place(file, number)}: {cause}", 'write " inside a quoted cell as ""') from None


def _delimiter(container: Container, header: str) -> str:
    """Tabs in TSV; in CSV whichever of comma, semicolon and tab the header has most of."""
    return "\t" if container == "tsv" else max(",;\t", key=header.count)


def _check_header(file: DataFile, header: list[str]) -> None:
    double = next((name for name in header if header.count(name) > 1), None)
    if double is not None:
        raise BadData(f"{place(file, 1)}: the column {double!r} stands in the header twice", "rename one of them")


def _check_cells(file: DataFile, number: int, header: list[str], cells: list[str], limits: Limits) -> None:
    if len(cells) != len(header):
        raise BadData(
            f"{place(file, number)}: {len(cells)} cells, but the header names {len(header)} ({', '.join(header)})",
            "put cells that hold the separator or a line break in quotation marks",
        )
    if sum(map(len, cells)) > limits.row_chars:
        raise _too_long(file, number, limits)


def _parquet(file: DataFile, limits: Limits) -> Iterator[Record]:
    try:
        with ParquetFile(file.path) as table:
            number = 0
            for batch in table.iter_batches(batch_size=BATCH_ROWS):
                if batch.nbytes > BATCH_ROWS * limits.row_chars * 4:
                    raise _too_long(file, number + 1, limits)
                for fields in batch.to_pylist():
                    number += 1
                    yield Record(number, fields)
    except (ArrowException, OSError) as error:
        cause = str(error).splitlines()[0]
        raise BadData(f"{file.path} cannot be read as Parquet: {cause}", "write it again; was it cut off?") from None
