"""Things that a node says are done: one act each, for `tests/faults/test_power_cut.py`.

    python -m tests.faults.durable ACT FOLDER BESIDE

runs an act in a folder while the shim notes what is durable; it ends when the act has returned.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from node.config_file import edit_config, read_config
from node.context import opened_node
from node.repository import Publisher
from node.settings import load_settings
from node.setup import set_up
from node.validation import add_validation, validation_rows
from registry.blobs import BlobStore
from registry.durable import make_folder
from registry.home import Home
from registry.keys import PrivateKey
from registry.paths import NodePath
from registry.rows import Row, read_rows, write_rows
from registry.store import Store, file_url
from registry.tables import SequenceRow
from registry.trust.repository import newest_root
from tests.faults.shim import Fault, arm

EN = NodePath.parse("en")
ROWS = [Row("what is red", "fox")]
KEPT = b"kept"
NEVER = 0  # the power is cut after the act


def _blobs(folder: Path) -> BlobStore:
    return BlobStore(folder / "blobs", folder / "partial")


def put_blob(folder: Path) -> None:
    _blobs(folder).put_bytes(KEPT)


def put_blob_beside_a_killed_one(folder: Path) -> None:
    """The folder of the blob was made by somebody who was killed before it was on the disk."""
    make_folder(folder / "blobs")
    _blobs(folder).path(_digest()).parent.mkdir()
    _blobs(folder).put_bytes(KEPT)


def take_blob_in(folder: Path) -> None:
    _blobs(folder).append_partial(_digest(), 0, KEPT, len(KEPT))
    _blobs(folder).finish_partial(_digest(), len(KEPT))


def has_blob(folder: Path) -> bool:
    return _blobs(folder).has(_digest()) and _blobs(folder).read(_digest(), 100) == KEPT


def _digest() -> str:
    return hashlib.sha256(KEPT).hexdigest()


def note_sequence(folder: Path) -> None:
    store = Store.open(file_url(folder / "banyan.db"))
    with store.transaction() as session:
        session.add(SequenceRow(issuer="1" * 64, path="en", highest=7))


def has_sequence(folder: Path) -> bool:
    store = Store.open(file_url(folder / "banyan.db"))
    with store.read() as session:
        row = session.get(SequenceRow, ("1" * 64, "en"))
    store.close()
    return row is not None and row.highest == 7


def keep_validation(folder: Path) -> None:
    Home(folder).create()
    add_validation(Home(folder), EN, ROWS)


def has_validation(folder: Path) -> bool:
    return validation_rows(Home(folder), EN) == ROWS


def keep_rows(folder: Path) -> None:
    write_rows(ROWS, folder / "rows.jsonl")


def has_rows(folder: Path) -> bool:
    return (folder / "rows.jsonl").exists() and read_rows(folder / "rows.jsonl", 1000) == ROWS


def set_setting(folder: Path) -> None:
    edit_config(folder / "config.toml", {"name": "kept"})


def has_setting(folder: Path) -> bool:
    return read_config(folder / "config.toml").get("name") == "kept"


def make_home(folder: Path) -> None:
    made = set_up({"home": folder / "home"}, {}, None)
    (folder.parent / "fingerprint").write_text(made.fingerprint)


def has_home(folder: Path) -> bool:
    fingerprint = PrivateKey.load(Home(folder / "home").key_file).public.fingerprint
    with opened_node(load_settings({"home": folder / "home"})) as node:
        return (folder.parent / "fingerprint").read_text() == fingerprint and not node.store.check_integrity()


def publish_repository(folder: Path) -> None:
    make_home(folder)
    with opened_node(load_settings({"home": folder / "home"})) as node:
        Publisher(node).renew(datetime.now(UTC))


def has_repository(folder: Path) -> bool:
    repository = folder / "home" / "repository"
    return newest_root(repository) is not None and (repository / "timestamp.json").exists()


ACTS: dict[str, tuple[Callable[[Path], None], Callable[[Path], bool]]] = {
    "blob": (put_blob, has_blob),
    "blob beside a killed one": (put_blob_beside_a_killed_one, has_blob),
    "blob that came in pieces": (take_blob_in, has_blob),
    "transaction": (note_sequence, has_sequence),
    "validation rows": (keep_validation, has_validation),
    "rows": (keep_rows, has_rows),
    "setting": (set_setting, has_setting),
    "home": (make_home, has_home),
    "repository": (publish_repository, has_repository),
}

if __name__ == "__main__":
    act, folder = ACTS[sys.argv[1]][0], Path(sys.argv[2])
    arm(Fault("power", NEVER, Path(sys.argv[3])), folder)
    act(folder)
