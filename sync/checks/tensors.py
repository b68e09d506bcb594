"""What a safetensors file holds: our own bounded reading of its header, before any library sees it.

The format (https://huggingface.co/docs/safetensors): 8 bytes of header length, little endian; a JSON object of
name -> dtype, shape, data_offsets; the numbers, without holes. The readers in use accept headers that cost seconds
and gigabytes, duplicate keys, empty tensors of any size and any name; here each of these is `BadData` with a message
of its own. Which tensors an adapter must have is left to `expected`, what its numbers weigh to `size`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from registry.errors import BadData, LocalFailure

MAX_HEADER_BYTES: Final = 1 << 20
MAX_TENSORS: Final = 10_000
MAX_METADATA_CHARS: Final = 64 << 10
MAX_DIMENSIONS: Final = 8
MAX_DIGITS: Final = 15  # of any number in a header; what every JSON reader keeps exact
CHUNK_BYTES: Final = 4 << 20

METADATA: Final = "__metadata__"
TOO_MANY: Final = f"the header names more than {MAX_TENSORS} tensors"
NAME: Final = re.compile(r"(?=.{1,200}\Z)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
DISGUISES: Final = {b"PK\x03\x04": "a zip archive, as torch.save writes it", b"\x1f\x8b": "a gzip file"}

# dtype -> its bits as unsigned integers, and the exponent bits that are all set in NaN and infinity only (IEEE 754).
DTYPES: Final[dict[str, tuple[np.dtype[Any], int]]] = {
    "F32": (np.dtype("<u4"), 0x7F800000),
    "F16": (np.dtype("<u2"), 0x7C00),
    "BF16": (np.dtype("<u2"), 0x7F80),
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor; `start` and `end` are bytes after `Header.data_at`."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """The tensors of a file by name, in the order of their bytes, and where the first of these stands."""

    tensors: dict[str, TensorEntry]
    data_at: int


def read_header(file: Path) -> Header:
    """Read and check the header of a safetensors file without reading its numbers (C15, T10).

    Raises BadData for every departure from the format and its bounds, LocalFailure where the file cannot be read.
    """
    with _reading(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        prefix = stream.read(8)
        length = _header_length(prefix, size)
        text = stream.read(length)
    fields = _parse(text)
    _check_metadata(fields.pop(METADATA, {}))
    if len(fields) > MAX_TENSORS:
        raise BadData(TOO_MANY)
    tensors = {name: _entry(name, record) for name, record in fields.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: item[1].start))
    _check_layout(ordered, size - 8 - length)
    return Header(ordered, data_at=8 + length)


def where_not_finite(file: Path, header: Header) -> str | None:
    """The first tensor that holds NaN or infinity, read in chunks of bounded size (C17).

    BadData where it ends early.
    """
    with _reading(file) as stream:
        stream.seek(header.data_at)
        for name, entry in header.tensors.items():
            bits, exponent = DTYPES[entry.dtype]
            left = entry.end - entry.start
            while left:
                chunk = stream.read(min(left, CHUNK_BYTES))
                if not chunk or len(chunk) % bits.itemsize:
                    raise BadData(f"the file ends inside {shown(name)}")
                numbers = np.frombuffer(chunk, dtype=bits)
                if bool(((numbers & exponent) == exponent).any()):
                    return name
                left -= len(chunk)
    return None


@contextmanager
def _reading(file: Path) -> Iterator[IO[bytes]]:
    try:
        if not file.is_file():
            raise LocalFailure(f"{file} is not a file")
        with file.open("rb") as stream:
            yield stream
    except OSError as error:
        raise LocalFailure(f"{file} cannot be read: {error.strerror}") from error


def _header_length(prefix: bytes, size: int) -> int:
    if len(prefix) < 8:
        raise BadData(f"the file has {size} bytes: too few for a safetensors file")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise BadData(
            _disguise(prefix) or f"the header is declared as {length} bytes; at most {MAX_HEADER_BYTES} may be"
        )
    if length > size - 8:
        raise BadData(f"the header is declared as {length} bytes, the file has only {size}: it is cut off")
    return length


def _disguise(prefix: bytes) -> str:
    """Name the other format that the first bytes are known for, so that a sender sees what was sent."""
    found = next((what for mark, what in DISGUISES.items() if prefix.startswith(mark)), "")
    if prefix[0] == 0x80 and prefix[1] in range(2, 6):
        found = "a pickle"
    return found and f"this is {found}, not a safetensors file; save it with safetensors"


def _parse(text: bytes) -> dict[str, Any]:
    """The JSON of a header, refused as early as it breaks a bound."""
    if not text.startswith(b"{"):
        raise BadData("the header does not start with '{': not a safetensors file")
    if text.count(b"[") > 2 * MAX_TENSORS + MAX_METADATA_CHARS:  # two lists a tensor; lists are dear to make
        raise BadData(TOO_MANY)
    objects_left = MAX_TENSORS + 2  # the metadata and the header itself are objects too

    def one_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal objects_left
        objects_left -= 1
        if objects_left < 0 or len(pairs) > MAX_TENSORS + 1:
            raise BadData(TOO_MANY)
        fields: dict[str, Any] = {}
        for key, value in pairs:
            if key in fields:
                raise BadData(f"the header has the key {shown(key)} twice")
            fields[key] = value
        return fields

    try:
        fields = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=one_object,
            parse_int=_whole,
            parse_float=_not_whole,
            parse_constant=_not_whole,
        )
    except UnicodeDecodeError as error:
        raise BadData("the header is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise BadData(f"the header is not JSON: {error!s:.100}") from error
    if not isinstance(fields, dict):
        raise BadData("the header is not a JSON object")
    return fields


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS or digits.startswith("-"):
        raise BadData(f"the header holds the number {digits:.40}: negative, or more than any file can hold")
    return int(digits)


def _not_whole(text: str) -> int:
    raise BadData(f"the header holds {text:.40}, where only whole numbers may be")


def _check_metadata(metadata: object) -> None:
    """Metadata are texts, never used; bounded so that they cannot carry a load."""
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadData(f"{METADATA} is not a set of texts")
    texts = [*metadata.keys(), *metadata.values()]
    if sum(map(len, texts)) > MAX_METADATA_CHARS:
        raise BadData(f"{METADATA} has more than {MAX_METADATA_CHARS} characters")
    if any("\ud800" <= char <= "\udfff" for text in texts for char in text):
        raise BadData(f"{METADATA} holds half a character")


def _entry(name: str, record: object) -> TensorEntry:
    if not NAME.fullmatch(name):
        raise BadData(f"{shown(name)} is no name for a tensor: letters, digits, '_', '-' and single dots only")
    if not isinstance(record, dict) or record.keys() != {"dtype", "shape", "data_offsets"}:
        raise BadData(f"{shown(name)} is not described by dtype, shape and data_offsets alone")
    dtype, shape, offsets = record["dtype"], record["shape"], record["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise BadData(f"{shown(name)} has the dtype {dtype!a:.40}; only {', '.join(DTYPES)} are taken")
    if not _is_list_of_ints(shape) or len(shape) > MAX_DIMENSIONS:
        raise BadData(f"{shown(name)} has a shape that is not a list of at most {MAX_DIMENSIONS} whole numbers")
    if 0 in shape:
        raise BadData(f"{shown(name)} is empty: its shape is {shape}")
    if not _is_list_of_ints(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise BadData(f"{shown(name)} has data_offsets that are not a start and an end")
    span, needed = offsets[1] - offsets[0], math.prod(shape) * DTYPES[dtype][0].itemsize  # exact: no int overflows
    if span != needed:
        raise BadData(f"{shown(name)} needs {needed} bytes for its shape {shape} and is given {span}")
    return TensorEntry(dtype, tuple(shape), offsets[0], offsets[1])


def _is_list_of_ints(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)  # True is no number here


def _check_layout(ordered: Mapping[str, TensorEntry], data_bytes: int) -> None:
    """Raise BadData unless the tensors fill the rest of the file, one after another."""
    at = 0
    for name, entry in ordered.items():
        if entry.start < at:
            raise BadData(f"{shown(name)} overlaps the tensor before it")
        if entry.start > at:
            raise BadData(f"there is a hole of {entry.start - at} bytes before {shown(name)}")
        at = entry.end
    if at > data_bytes:
        raise BadData(f"the tensors need {at} bytes and the file has {data_bytes}: it is cut off")
    if at < data_bytes:
        raise BadData(f"{data_bytes - at} bytes follow the last tensor")


def shown(name: str) -> str:
    """A name from the file as it may be printed: ASCII, quoted, bounded."""
    return f"{name!a:.120}"
