from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulations.faults import MEMORY
from simulations.forest import Forest


@pytest.fixture(scope="session")
def in_memory() -> Iterator[Path]:
    """A folder whose files are in memory where the machine has such a place."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def forest(in_memory: Path) -> Forest:
    return Forest(in_memory / "forest")


@pytest.fixture(autouse=True)
def small_files_in_memory(in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(in_memory))
