"""The adapters of a path as one adapter file over its base, kept in the home for whoever asks again.

The stack is exact (`sync.delta.stack`). A file's name holds its own SHA-256, so that a damaged one is made again; those
that were asked for longest ago are removed when all together exceed a limit.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from registry.documents import AdapterShape
from registry.errors import LocalFailure
from sync.chain import Link
from sync.stack_shape import StackShape

if TYPE_CHECKING:
    from sync.delta import Delta

SUFFIX: Final = ".safetensors"


@dataclass(frozen=True, slots=True)
class StackedFile:
    """Where an adapter file lies, and the SHA-256 of its bytes."""

    path: Path
    sha256: str


class StackedAdapters:
    """The stacked adapters in a folder, `max_bytes` of them at most, but always the newest. Safe for threads."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._known: dict[str, StackedFile] = {}  # hashed since this process began

    def file(self, release: str, deltas: Callable[[], list[Delta]]) -> StackedFile:
        """The file for a release, made from its deltas when it is not here. Raises LocalFailure when it cannot be."""
        with self._lock:
            try:
                known = self._known.get(release)
                if known is None or not known.path.is_file():
                    known = self._known[release] = self._kept(release) or self._made(release, deltas())
                os.utime(known.path)
                return known
            except OSError as error:
                raise LocalFailure(
                    f"cannot write an adapter into {self._folder}: {error.strerror}", "free some disk space"
                ) from error

    def _kept(self, release: str) -> StackedFile | None:
        for file in self._folder.glob(f"{release}.*{SUFFIX}"):
            digest = file.name.removesuffix(SUFFIX).rpartition(".")[2]
            with file.open("rb") as source:
                if hashlib.file_digest(source, "sha256").hexdigest() == digest:
                    return StackedFile(file, digest)
            file.unlink()
        return None

    def _made(self, release: str, deltas: list[Delta]) -> StackedFile:
        from sync.delta import stack, write_stack

        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._folder / f".{release}.{os.getpid()}"
        try:
            write_stack(stack(deltas), new)
            with new.open("rb") as source:
                digest = hashlib.file_digest(source, "sha256").hexdigest()
            made = new.replace(self._folder / f"{release}.{digest}{SUFFIX}")
        finally:
            new.unlink(missing_ok=True)
        self._make_room(made)
        return StackedFile(made, digest)

    def _make_room(self, newest: Path) -> None:
        """Remove what was used longest ago; who reads it now reads on."""
        sizes = {file: file.stat() for file in self._folder.iterdir() if file != newest}
        total = newest.stat().st_size + sum(found.st_size for found in sizes.values())
        for file in sorted(sizes, key=lambda one: sizes[one].st_mtime):
            if total <= self._max_bytes:
                return
            with suppress(FileNotFoundError):
                file.unlink()
            total -= sizes[file].st_size


def stacked_shape(chain: list[Link]) -> AdapterShape | None:
    """The shape of the stack of a chain's adapters, as `sync.delta` writes it; None where there is none."""
    shapes = [link.release.adapter.shape for link in chain if link.release.adapter is not None]
    if len(shapes) <= 1:
        return shapes[0] if shapes else None
    targets = sorted({target for shape in shapes for target in shape.targets})
    rank = max(sum(shape.rank for shape in shapes if target in shape.targets) for target in targets)
    return StackShape(rank=rank, alpha=float(rank), targets=tuple(targets), dtype="F32")
