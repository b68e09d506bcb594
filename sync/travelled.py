"""The rows that travelled with an offering: a transfer set beside an adapter, or a distillation set in its place."""

from __future__ import annotations

from typing import Final

from registry.blobs import BlobStore
from registry.documents import AnyOffering, Distillation, File
from registry.rows import read_rows
from registry.taught import TaughtRow, read_taught

MAX_ROWS_BYTES: Final = 64 << 20


def travelled_file(update: AnyOffering) -> File | None:
    """The file that they are in; None where none travelled."""
    return update.answers if isinstance(update, Distillation) else update.transfer


def travelled(blobs: BlobStore, update: AnyOffering) -> list[TaughtRow]:
    """The prompts with their sender's answers, and its choices where it told them.

    Raises BadData where the file is not what was declared, LocalFailure where it is not here.
    """
    declared = travelled_file(update)
    if declared is None:
        return []
    file = blobs.open_verified(declared.sha256)
    if isinstance(update, Distillation):
        return read_taught(file, MAX_ROWS_BYTES, update.answer_rows, update.top)
    return [TaughtRow(row) for row in read_rows(file, MAX_ROWS_BYTES)]
