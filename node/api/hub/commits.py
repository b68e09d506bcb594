"""One commit: lines of JSON with files in them, and what an adapter folder in them becomes."""

from __future__ import annotations

import base64
import binascii
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final

from node.api.errors import TooLarge
from node.api.hub.errors import RepoNotFound, RevisionNotFound
from node.api.hub.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD, FileShelf, adapter_config
from node.api.hub.shelf import MAIN, Shelf, Snapshot
from node.context import Node
from node.lineage import LINEAGE
from node.model_folder import PICKLES
from node.peft_config import read_peft_config
from node.repo_ids import commit_of
from registry.cards import parse_card
from registry.errors import BadData
from registry.paths import NodePath
from sync.checks.base import LEGAL, TOKENIZER_FILES

MAX_LINES: Final = 300
# Files that come along with adapters: of no meaning here.
LEFT_ASIDE: Final = frozenset({".gitattributes", LINEAGE})


@dataclass
class Commit:
    """What a commit brings: files by name, and the commit that it was made on, where it says so."""

    files: dict[str, bytes] = field(default_factory=dict)
    parent: str | None = None


def check_name(name: str) -> None:
    """Raise BadData for a file that is not taken, by its name."""
    if name in (CARD, ADAPTER_CONFIG, ADAPTER_WEIGHTS) or name in TOKENIZER_FILES | LEFT_ASIDE or LEGAL.fullmatch(name):
        return
    if PurePosixPath(name).suffix.lower() in PICKLES:
        raise BadData(f"{name[:120]!a} is a pickle, which can run code when it is opened", "save as safetensors")
    raise BadData(
        f"{name[:120]!a} is not a file of an adapter",
        f"upload {ADAPTER_CONFIG}, {ADAPTER_WEIGHTS} and {CARD}: hf upload ID FOLDER --include 'adapter_*' README.md",
    )


def read_commit(body: bytes, limit: int) -> Commit:
    """Read the lines of a commit, `limit` bytes of files at most. Raises BadData or TooLarge."""
    commit, total = Commit(), 0
    lines = body.split(b"\n")
    if len(lines) > MAX_LINES:
        raise BadData(f"the commit has {len(lines)} lines; at most {MAX_LINES} may be")
    for line in filter(None, lines):
        kind, value = _line(line)
        if kind == "header":
            parent = value.get("parentCommit")
            commit.parent = parent if isinstance(parent, str) else None
        elif kind == "file":
            name = str(value.get("path"))
            check_name(name)
            commit.files[name] = _content(value)
            total += len(commit.files[name])
            if total > limit:
                raise TooLarge(f"the files have more than the {limit:,} bytes that are taken", "choose a lower rank")
        elif kind in ("deletedFile", "deletedFolder"):
            raise BadData("a release never changes: files cannot be deleted", "upload a new adapter")
        else:
            raise BadData(f"{kind[:40]!a} lines are not taken: files come inside the commit", "upload regular files")
    return commit


def taken_in(
    node: Node,
    shelf: Shelf,
    files: FileShelf,
    path: NodePath,
    there: Snapshot | None,
    commit: Commit,
    now: datetime,
) -> str:
    """Make a release of the adapter in a commit; the commit that stands for it. Raises BadData, or LocalFailure."""
    from node.taking_in import Foreign, take_in

    weights = commit.files.get(ADAPTER_WEIGHTS)
    if weights is None:
        raise BadData(f"the commit brings no {ADAPTER_WEIGHTS}", "a release is made of an adapter: upload its folder")
    config_bytes = commit.files.get(ADAPTER_CONFIG)
    if config_bytes is None:
        if there is None or not there.adapters:
            raise BadData(f"the commit brings no {ADAPTER_CONFIG}", "upload the whole folder of save_pretrained")
        config_bytes = adapter_config(there)
    config = read_peft_config(config_bytes)
    ground = _ground(shelf, config.base, config.revision)
    _refuse_other_tokenizer(ground, files, commit.files)
    note = parse_card(commit.files[CARD].decode(errors="replace")).body if CARD in commit.files else ""
    with tempfile.TemporaryDirectory(dir=node.home.partial, prefix=".upload-") as folder:
        file = Path(folder, ADAPTER_WEIGHTS)
        file.write_bytes(weights)
        chain = () if ground.form == "base" else ground.chain
        pin = take_in(node, path, Foreign(file, config, ground.manifest.digest, chain, note), now)
    return commit_of(pin.digest)


def _ground(shelf: Shelf, base: str, revision: str | None) -> Snapshot:
    """The model that an adapter was trained on, by the id in its configuration. Raises BadData when it is not here."""
    try:
        repo = shelf.repo(base)
        return shelf.snapshot(repo, revision or MAIN)
    except (RepoNotFound, RevisionNotFound) as error:
        raise BadData(
            f"{ADAPTER_CONFIG} names the base {base[:120]!a}, which this node does not have: {error.message}",
            "write the id of a model of this node into base_model_name_or_path",
        ) from error


def _refuse_other_tokenizer(ground: Snapshot, files: FileShelf, sent: Mapping[str, bytes]) -> None:
    """The tokenizer belongs to the base: its files may come along, and must be the base's own."""
    known = files.of(ground)
    for name in sorted(sent.keys() & TOKENIZER_FILES):
        content = known[name]() if name in known else None
        if content is None or b"".join(content.read(0, content.size)) != sent[name]:
            raise BadData(
                f"{name} is not the base's: an adapter cannot change the tokenizer or the chat template",
                f"leave it out: hf upload ID FOLDER --exclude {name}",
            )


def _line(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadData("a line of the commit is not JSON") from error
    if not isinstance(item, dict) or not isinstance(item.get("value"), dict):
        raise BadData("a line of the commit is not an object with key and value")
    return str(item.get("key")), item["value"]


def _content(value: Mapping[str, Any]) -> bytes:
    content, encoding = value.get("content"), value.get("encoding", "utf-8")
    if not isinstance(content, str) or encoding not in ("base64", "utf-8"):
        raise BadData("a file of the commit has no content in base64")
    try:
        return base64.b64decode(content, validate=True) if encoding == "base64" else content.encode()
    except (binascii.Error, ValueError) as error:
        raise BadData("a file of the commit is not base64") from error
