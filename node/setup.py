"""Make a home: folders, key, settings, database. Repeating it keeps what is there and adds what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.config_file import read_config
from node.settings import Settings, load_settings, store_settings
from registry.blobs import BlobStore
from registry.home import Home
from registry.keys import PrivateKey
from registry.store import Store, file_url


@dataclass(frozen=True, slots=True)
class SetUp:
    """What `set_up` found or made."""

    settings: Settings
    made_key: bool
    fingerprint: str


def set_up(flags: Mapping[str, Any], wanted: Mapping[str, Any], passphrase: str | None) -> SetUp:
    """Make the home that `flags` name; `wanted` are settings to keep in its file, None for those not spoken of.

    A node without parent and without paths becomes the root of a tree of its own. Raises BadData or LocalFailure.
    """
    settings = load_settings({**flags, **wanted})
    home = settings.place
    home.create()
    made_key = not home.key_file.exists()
    if made_key:
        PrivateKey.generate().save(home.key_file, passphrase)
    key = PrivateKey.load(home.key_file, passphrase)
    changes = _changes(home, settings, wanted)
    if changes:
        store_settings(home.root, changes)
    BlobStore(home.blobs, home.partial).put_bytes(key.public.raw)
    Store.open(settings.database_url or file_url(home.database)).close()
    return SetUp(load_settings(flags), made_key, key.public.fingerprint)


def _changes(home: Home, settings: Settings, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be written: what was asked for and is not there yet."""
    stored = read_config(home.config)
    asked = {key: _plain(getattr(settings, key)) for key, value in wanted.items() if value is not None}
    if not settings.paths and not settings.parent_url:
        asked["paths"] = ["master"]
    return {key: value for key, value in asked.items() if stored.get(key) != value}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
