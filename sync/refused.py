"""Candidates that the gate refused: kept with their tables, so that a person can see what was tried and why it failed.

Each has a folder: the table, and beside it the best try's adapter in PEFT's format. They stay on this node; of many,
the newest.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from registry.documents import CheckResult
from registry.errors import LocalFailure
from registry.fields import Digest, Moment, Part, PathText, Version

TABLE: Final = "candidate.json"
MOST_KEPT: Final = 8


class RefusedTry(Part):
    """One judged adapter: how it was merged, its part of the way from the old one, what the gate said, what it cost."""

    start: str
    part: float
    seconds: float
    recompression_error: float
    checks: tuple[CheckResult, ...]


class Refused(Part):
    """A candidate that did not become `version` of `path`; the best try first, whose adapter lies beside it."""

    path: PathText
    version: Version
    instead_of: Digest
    updates: tuple[Digest, ...]
    created: Moment
    tries: tuple[RefusedTry, ...]


def keep_table(table: Refused, place: Path) -> None:
    """Write the table into its folder, whole or not at all; of the folders beside it the oldest go."""
    partial = place / f"{TABLE}.partial"
    try:
        partial.write_text(table.model_dump_json(indent=1), encoding="utf-8")
        partial.replace(place / TABLE)
        by_age = sorted(place.parent.iterdir(), key=lambda one: one.stat().st_mtime)
    except OSError as error:
        raise LocalFailure(f"cannot write {place / TABLE}: {error.strerror}", "node doctor") from error
    for old in by_age[:-MOST_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def refused(folder: Path) -> list[tuple[Path, Refused]]:
    """The candidates that are kept, the newest first, each with its folder; one that cannot be read is left out."""
    found = []
    for file in folder.glob(f"*/{TABLE}"):
        try:
            found.append((file.parent, Refused.model_validate_json(file.read_bytes())))
        except (OSError, ValidationError):
            continue
    return sorted(found, key=lambda one: one[1].created, reverse=True)
