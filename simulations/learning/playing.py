"""What is played in one cell, where what it needs lies, and its record: to read results takes no model library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Playing:
    """What is played in one tree: the policy, the seed, who attacks how, whether gate and trigger probes stand."""

    policy: str
    seed: int
    attackers: float = 0.0
    attack: str = ""
    gate: bool = True
    probes: bool = False


@dataclass(frozen=True, slots=True)
class Played:
    """One cell and its record."""

    playing: Playing
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the rows of the tree and the bundled base with its anchors and validation rows lie; what is kept."""

    data: Path
    bundled: Path
    work: Path
