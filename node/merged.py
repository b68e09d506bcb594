"""The weights of a path as safetensors files that are made while they are read (B7): nothing is stored, any part quick.

A file has the base's own header, byte for byte. The tensors that adapters change are computed in blocks of rows,
W + B·A in float32, and rounded to the type in which the base holds them; everything else is the base's bytes. So a
release costs no second copy of its base, and a reader who goes on from a byte gets what the first try would have had.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import torch

from registry.errors import BadData
from sync.checks.tensors import read_header
from sync.delta import Delta, Factor

PIECE_BYTES: Final = 1 << 20
BLOCK_BYTES: Final = (
    4 << 20
)  # of the base's numbers; a block begins at a fixed row, so that its sums are always the same
DTYPES: Final = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True, slots=True)
class _Change:
    """A tensor that is computed; `begin` and `end` are bytes of the file."""

    begin: int
    end: int
    dtype: torch.dtype
    rows: int
    factor: Factor

    @property
    def row_bytes(self) -> int:
        return (self.end - self.begin) // self.rows

    def merged(self, source: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` to `stop` of the file, which lie in this tensor."""
        block = max(1, BLOCK_BYTES // self.row_bytes)
        first = (start - self.begin) // self.row_bytes // block * block
        for row in range(first, self.rows, block):
            at = self.begin + row * self.row_bytes
            if at >= stop:
                return
            last = min(row + block, self.rows)
            data = _read(source, at, self.begin + last * self.row_bytes)
            weights = torch.frombuffer(bytearray(data), dtype=self.dtype).view(last - row, -1).float()
            weights += self.factor.b[row:last] @ self.factor.a
            changed = weights.to(self.dtype).view(torch.uint8).numpy().tobytes()
            yield changed[max(0, start - at) : stop - at]


class MergedFile:
    """One safetensors file of a base with a delta added to its tensors."""

    def __init__(self, base: Path, delta: Delta) -> None:
        header = read_header(base)
        self._base = base
        self.size = base.stat().st_size
        self.changed: set[str] = set()
        self._changes: list[_Change] = []
        for name, entry in header.tensors.items():
            module = name.removesuffix(".weight")
            factor = delta.get(module) if name.endswith(".weight") else None
            if factor is None:
                continue
            if entry.shape != (factor.b.shape[0], factor.a.shape[1]):
                raise BadData(f"the adapter changes {module} in another shape than {list(entry.shape)}, the base's")
            place = header.data_at + entry.start, header.data_at + entry.end
            self._changes.append(_Change(*place, DTYPES[entry.dtype], entry.shape[0], factor))
            self.changed.add(module)

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` to `stop`, in pieces."""
        with self._base.open("rb") as source:
            at = start
            for change in self._changes:
                if change.end <= at or change.begin >= stop:
                    continue
                yield from _copied(source, at, change.begin)
                at = max(at, change.begin)
                end = min(stop, change.end)
                yield from change.merged(source, at, end)
                at = end
            yield from _copied(source, at, stop)


def merged_files(base: Mapping[str, Path], delta: Delta) -> dict[str, MergedFile]:
    """The weight files of a base, by name, with a delta added. BadData where no file holds a module of the delta."""
    files = {name: MergedFile(file, delta) for name, file in base.items()}
    if missing := sorted(delta.keys() - {name for file in files.values() for name in file.changed}):
        raise BadData(
            f"the weights of this base have other names than its adapters: there is no {missing[0]}.weight",
            "load the adapter: PeftModel.from_pretrained",
        )
    return files


def _copied(source: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    for at in range(start, stop, PIECE_BYTES):
        yield _read(source, at, min(stop, at + PIECE_BYTES))


def _read(source: BinaryIO, start: int, stop: int) -> bytes:
    source.seek(start)
    return source.read(stop - start)
