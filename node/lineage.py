"""`lineage.json`: what a folder with a model of the tree was made of, with the digests by which it can be proven.

The same release gives the same lineage on every machine, at every time.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from registry.documents import BaseManifest
from sync.chain import Link

LINEAGE: Final = "lineage.json"
MAX_LINEAGE_BYTES: Final = 1 << 20


def lineage_of(chain: list[Link], base: BaseManifest, files: dict[str, str]) -> dict[str, Any]:
    """The base, then each release from the top of the tree; `files` are those of the folder by SHA-256."""
    return {
        "path": chain[-1].release.path,
        "version": chain[-1].release.version,
        "release": chain[-1].digest,
        "base": {
            "digest": base.digest,
            "name": base.name,
            "licence": base.licence,
            "files": {file.name: file.sha256 for file in base.files},
        },
        "sum_of": [
            {
                "path": link.release.path,
                "version": link.release.version,
                "release": link.digest,
                "signer": link.signer.id,
                "adapter": link.release.adapter.file.sha256 if link.release.adapter else None,
                "created": link.release.created.isoformat(),
                "expires": link.release.expires.isoformat(),
            }
            for link in chain
        ],
        "files": files,
    }


def write_lineage(folder: Path, chain: list[Link], base: BaseManifest) -> None:
    """Write the lineage of the files that are in a folder."""
    files = {file.name: _digest(file) for file in sorted(folder.iterdir())}
    text = json.dumps(lineage_of(chain, base, files), indent=2, ensure_ascii=False)
    (folder / LINEAGE).write_text(text + "\n", encoding="utf-8")


def unchanged_clone(folder: Path, release: str) -> tuple[str, ...] | None:
    """The names of the files of an earlier clone of a release, if it is there and its files are as they were."""
    try:
        with (folder / LINEAGE).open("rb") as source:
            lineage = json.loads(source.read(MAX_LINEAGE_BYTES))
        files: dict[str, str] = dict(lineage["files"])
        same = lineage["release"] == release and all(
            Path(name).name == name and _digest(folder / name) == sha256 for name, sha256 in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return tuple(sorted((*files, LINEAGE))) if same else None


def _digest(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
