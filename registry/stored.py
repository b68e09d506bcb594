"""Files on their way into a document: put among the blobs, and described by name, size and digest."""

from __future__ import annotations

from pathlib import Path

from registry.blobs import BlobStore
from registry.documents import File


def stored_file(blobs: BlobStore, source: Path, name: str = "") -> File:
    """Store a copy of a file and describe it, under its own name or another; raises as `BlobStore.put_file` does."""
    return File(name=name or source.name, size=source.stat().st_size, sha256=blobs.put_file(source))


def stored_card(blobs: BlobStore, text: str) -> File:
    """Store a model card and describe it; raises as `BlobStore.put_bytes` does."""
    content = text.encode()
    return File(name="README.md", size=len(content), sha256=blobs.put_bytes(content))
