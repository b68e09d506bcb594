"""What a peer's release brings, before anything of it is used: the parent may be a liar too.

The files of the base may be nothing but data, and every adapter of the chain must pass the checks that an update's file
has to pass. Signatures and digests are `sync.pull`'s; what the model then answers, `sync.rebase`'s to measure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from registry.blobs import BlobStore
from registry.documents import BaseManifest, File
from registry.errors import BadData
from sync.chain import Link
from sync.checks.base import CONFIG, MAX_JSON_BYTES, TOKENIZER_CONFIG, WEIGHTS_INDEX, belongs, is_weights, refuse_code
from sync.checks.files import check_files
from sync.checks.tensors import read_header
from sync.verdict import failed

CARD: Final = "README.md"
MAX_INDEX_BYTES: Final = 64 << 20
_TELL: Final = "tell the operator of the peer"


def check_fetched(chain: Sequence[Link], manifest: BaseManifest, blobs: BlobStore) -> None:
    """Look through the files of a fetched chain (R15), which are all here and have their digests.

    Raises BadData that names the file and what is wrong with it.
    """
    config = check_base(manifest, blobs)
    for link in chain:
        adapter, name = link.release.adapter, f"{link.release.path}@v{link.release.version}"
        if adapter is None:
            continue
        file = blobs.open_verified(adapter.file.sha256)  # sets one aside that changed since it came
        for problem in failed(check_files(file, adapter, config)):
            raise BadData(
                f"the adapter of {name} is not fit to be used: {problem.name}: {problem.reason}",
                _TELL,
            )


def check_base(manifest: BaseManifest, blobs: BlobStore) -> dict[str, Any]:
    """Check the files of a base, raising BadData; its configuration, empty where it has none."""
    files = {file.name: file for file in manifest.files}
    if strange := sorted(name for name in files if not belongs(name) and name != CARD):
        raise BadData(f"the base {manifest.name} brings {strange[0]}, which is not a file of a base", _TELL)
    for name, file in files.items():
        if is_weights(name):
            read_header(blobs.path(file.sha256))
    config, tokenizer, index = (_json(files.get(name), blobs) for name in (CONFIG, TOKENIZER_CONFIG, WEIGHTS_INDEX))
    refuse_code(config, CONFIG)
    refuse_code(tokenizer, TOKENIZER_CONFIG)
    parts = index.get("weight_map", {})
    if not isinstance(parts, dict) or not all(isinstance(part, str) and part in files for part in parts.values()):
        raise BadData(f"{WEIGHTS_INDEX} of the base {manifest.name} names files that are not part of it", _TELL)
    return config


def _json(file: File | None, blobs: BlobStore) -> dict[str, Any]:
    """A JSON object among the files; empty where there is no such file."""
    if file is None:
        return {}
    try:
        value = json.loads(blobs.read(file.sha256, MAX_INDEX_BYTES if file.name == WEIGHTS_INDEX else MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise BadData(f"{file.name} of the base is not JSON: {error!s:.100}", _TELL) from error
    if not isinstance(value, dict):
        raise BadData(f"{file.name} of the base is not a JSON object", _TELL)
    return value
