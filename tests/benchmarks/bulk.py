"""Many bytes that take neither memory nor disk: zeros, and a number at the end that tells one file from another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from registry.blobs import BlobStore
from registry.documents import File

TAIL_BYTES = 8
STEP_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Bulk:
    """`size` bytes, of which the last eight are `number`."""

    size: int
    number: int

    def piece(self, at: int, length: int) -> bytes:
        """Some of the bytes."""
        head = max(0, min(length, self.size - TAIL_BYTES - at))
        tail = self.number.to_bytes(TAIL_BYTES, "big")
        start = max(0, at - (self.size - TAIL_BYTES))
        return bytes(head) + tail[start : start + length - head]

    def described(self, name: str) -> File:
        """The bytes as a document names them."""
        hashed = _zeros(self.size - TAIL_BYTES).copy()
        hashed.update(self.number.to_bytes(TAIL_BYTES, "big"))
        return File(name=name, size=self.size, sha256=hashed.hexdigest())

    def put(self, blobs: BlobStore, name: str) -> File:
        """Put the bytes among blobs, as a file with a hole."""
        file = self.described(name)
        place: Path = blobs.path(file.sha256)
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as out:
            out.seek(self.size - TAIL_BYTES)
            out.write(self.number.to_bytes(TAIL_BYTES, "big"))
        return file


@cache
def _zeros(count: int) -> Any:
    """The hash of so many zeros, to go on from."""
    hashed, step = hashlib.sha256(), bytes(STEP_BYTES)
    for at in range(0, count, STEP_BYTES):
        hashed.update(step[: count - at])
    return hashed
