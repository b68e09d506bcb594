"""A data file as bytes: which container it is, whether it is readable text within limits, and its digest.

One pass over the file before anything is parsed, so that a wrong file is refused with the place of its first bad
byte. Records and columns are left to `records` and `formats`.
"""

from __future__ import annotations

import codecs
import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from registry.errors import BadData, LocalFailure

Container = Literal["jsonl", "json", "csv", "tsv", "parquet"]

CHUNK_BYTES = 1 << 20
PARQUET_MAGIC = b"PAR1"
SUFFIXES: dict[str, Container] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
}
ACCEPTED_FILES = "JSONL (.jsonl), JSON (.json), CSV (.csv), TSV (.tsv) or Parquet (.parquet)"
# First bytes of files that people give by mistake: what it is, what to do.
MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a gzip archive", "unpack it: gunzip -k {file}"),
    (b"PK\x03\x04", "a zip archive or an office document", "unpack it, or save the sheet as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "an old office document", "save the sheet as CSV in UTF-8"),
    (b"BZh", "a bzip2 archive", "unpack it: bunzip2 -k {file}"),
    (b"\xfd7zXZ", "an xz archive", "unpack it: unxz -k {file}"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it: unzstd {file}"),
    (b"SQLite format 3", "an SQLite database", "export the table: sqlite3 -header -csv {file} 'select ...' > rows.csv"),
    (b"%PDF", "a PDF document", "give rows of text instead: " + ACCEPTED_FILES),
)
WIDE_MARKS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a data file may be at most."""

    file_bytes: int = 512 << 20
    rows: int = 500_000
    row_chars: int = 100_000


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that passed `examine`."""

    path: Path
    container: Container
    size_bytes: int
    sha256: str


def examine(file: Path, limits: Limits) -> DataFile:
    """Check a file as bytes and take its digest; raises BadData that names file, cause and next step."""
    size = _size(file, limits)
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        container = _container(file, stream.read(4096))
        stream.seek(0)
        scan = None if container == "parquet" else _TextScan(file)
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            if scan:
                scan.feed(chunk)
    if scan:
        scan.finish()
    return DataFile(file, container, size, digest.hexdigest())


def _size(file: Path, limits: Limits) -> int:
    try:
        if not file.exists():
            raise BadData(f"there is no file {file}", f"look for it: ls {shlex.quote(str(file.parent))}")
        if not file.is_file():
            raise BadData(f"{file} is not a regular file", "give one data file; several can be joined with cat")
        size = file.stat().st_size
        with file.open("rb"):
            pass
    except OSError as error:
        raise LocalFailure(f"{file} cannot be read: {error.strerror}", f"check its rights: ls -l {file}") from error
    if size == 0:
        raise BadData(f"{file} is empty", 'write one row per line, such as {"input": "...", "output": "..."}')
    if size > limits.file_bytes:
        raise BadData(
            f"{file} has {size:,} bytes, more than the {limits.file_bytes:,} that are read",
            f"take a part of it: head -n {limits.rows} {shlex.quote(str(file))} > part{file.suffix}",
        )
    return size


def _container(file: Path, head: bytes) -> Container:
    """By content where the content says it, else by the file's name."""
    if head.startswith(PARQUET_MAGIC):
        return "parquet"
    for magic, name, step in MAGIC:
        if head.startswith(magic):
            raise BadData(f"{file} is {name}, not rows of text", step.format(file=shlex.quote(str(file))))
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        raise BadData(f"{file} is named .parquet but does not begin as Parquet", "write it again, or correct its name")
    first = head.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    container = SUFFIXES.get(suffix)
    if container in ("json", "jsonl") or (container is None and first in (b"{", b"[")):
        return "json" if first == b"[" else "jsonl"
    if container is None:
        raise BadData(f"{file}: a file named {suffix or 'without ending'} is not known", f"give {ACCEPTED_FILES}")
    return container


class _TextScan:
    """Walks a file's bytes and raises BadData at the first that is not UTF-8 text."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._before = 0  # bytes of earlier chunks
        self._lines = 0
        self._seen_text = False

    def feed(self, chunk: bytes) -> None:
        """Check the next bytes of the file."""
        if self._before == 0:
            self._check_wide(chunk)
        waiting = len(self._decoder.getstate()[0])
        nul = chunk.find(b"\0")
        try:
            text = self._decoder.decode(chunk if nul < 0 else chunk[:nul])
        except UnicodeDecodeError as error:
            raise self._not_utf8(error, self._before - waiting) from None
        if nul >= 0:
            line = self._lines + chunk.count(b"\n", 0, nul) + 1
            raise BadData(
                f"{self._file} is binary: byte {self._before + nul} (line {line}) is zero", f"give {ACCEPTED_FILES}"
            )
        self._seen_text = self._seen_text or bool(text.strip("\ufeff \t\r\n"))
        self._before += len(chunk)
        self._lines += chunk.count(b"\n")

    def finish(self) -> None:
        """Check the end of the file."""
        waiting = len(self._decoder.getstate()[0])
        try:
            self._decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise self._not_utf8(error, self._before - waiting) from None
        if not self._seen_text:
            raise BadData(f"{self._file} holds nothing but blank lines", "write one row per line")

    def _check_wide(self, head: bytes) -> None:
        encoding = next((name for mark, name in WIDE_MARKS if head.startswith(mark)), None)
        if encoding is None and len(head) >= 4 and head[0] and not head[1] and head[2] and not head[3]:
            encoding = "UTF-16LE"
        if encoding:
            raise BadData(f"{self._file} is {encoding}, not UTF-8", self._convert(encoding))

    def _not_utf8(self, error: UnicodeDecodeError, at: int) -> BadData:
        raw: bytes = error.object
        line = self._lines + raw.count(b"\n", 0, error.start) + 1
        start = raw.rfind(b"\n", 0, error.start) + 1
        end = raw.find(b"\n", error.start)
        sample = raw[max(start, error.start - 40) : end if end >= 0 else error.start + 40]
        place = f"{self._file}, line {line}: byte {at + error.start} (0x{raw[error.start]:02x}) is not UTF-8"
        try:
            reading = sample[:120].decode("cp1252").strip()
            encoding = "WINDOWS-1252"
        except UnicodeDecodeError:
            reading = sample[:120].decode("latin-1").strip()
            encoding = "ISO-8859-1"
        return BadData(f"{place}; read as {encoding} it says {reading!r}", self._convert(encoding))

    def _convert(self, encoding: str) -> str:
        name = shlex.quote(str(self._file))
        target = shlex.quote(f"{self._file.stem}.utf8{self._file.suffix}")
        return f"convert it, if that is its encoding: iconv -f {encoding} -t UTF-8 {name} > {target}"
