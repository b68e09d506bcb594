"""The settings file: read with limits, edited with its comments kept, replaced in one step.

Which keys exist and what they may hold is left to `node.settings`.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from registry.durable import make_folder, sync_folder
from registry.errors import BadData, LocalFailure

MAX_CONFIG_BYTES = 1 << 20


def read_config(file: Path) -> dict[str, Any]:
    """The keys of a settings file; nothing where there is no file. Raises BadData on text that is not TOML."""
    try:
        with file.open("rb") as source:
            text = source.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LocalFailure(f"cannot read {file}: {error.strerror}", f"check who owns {file}") from error
    if len(text) > MAX_CONFIG_BYTES:
        raise BadData(f"{file} is larger than {MAX_CONFIG_BYTES} bytes", "it should hold settings only")
    try:
        return tomllib.loads(text.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadData(f"{file} is not TOML: {error}", f"edit {file}, or move it away and run: node init") from error


def edit_config(file: Path, changes: Mapping[str, Any]) -> None:
    """Set keys, or remove those whose value is None. Raises BadData (not TOML) or LocalFailure (the disk)."""
    document = _open_document(file)
    for key, value in changes.items():
        if value is None:
            document.pop(key, None)
        else:
            document[key] = value
    _replace(file, tomlkit.dumps(document))


def _open_document(file: Path) -> tomlkit.TOMLDocument:
    read_config(file)  # size and syntax, with an error that says what to do
    try:
        return tomlkit.parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return tomlkit.document()
    except TOMLKitError as error:
        raise BadData(f"{file} is not TOML: {error}", f"edit {file}") from error


def _replace(file: Path, text: str) -> None:
    """Put a new settings file in the old one's place in one step, readable by its owner only."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        make_folder(file.parent)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as target:
            target.write(text)
            target.flush()
            os.fsync(target.fileno())
        partial.replace(file)
        sync_folder(file.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise LocalFailure(
            f"cannot write {file}: {error.strerror}", f"check the disk and who owns {file.parent}"
        ) from error
