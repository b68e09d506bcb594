"""Processors that run models, by name: kind, memory, bandwidth. `data/devices.csv` names the source of each row.

The names are those that drivers and people use: "NVIDIA GeForce RTX 3060", "rtx3060 12gb", "M4 Pro".
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from recommender.constraints import Device

TABLE: Final = Path(__file__).parent / "data" / "devices.csv"

# Said by drivers and shops and never what tells two devices apart.
_MAKERS: Final = {"nvidia", "amd", "intel", "apple", "geforce", "radeon", "tesla", "quadro", "instinct"}
_PARTS: Final = {"graphics", "graphic", "gpu", "card", "vram", "memory", "unified", "chip", "generation", "edition"}
_NOISE: Final = _MAKERS | _PARTS | {"with", "r", "tm", "gddr6", "gddr6x", "hbm2", "hbm2e", "hbm3"}
_MEMORY: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(?:gb|gib|go)\b", re.IGNORECASE)
_PIECE: Final = re.compile(r"[a-z]+\d+[a-z]*|\d+[a-z]*|[a-z]+", re.IGNORECASE)
_OTHER_WORDS: Final = {"laptop": "mobile", "notebook": "mobile", "gtx": "", "rtx": "", "rx": "", "max-q": "mobile"}


@dataclass(frozen=True, slots=True)
class DeviceKind:
    """One row: `memory_gib` is None where it is a choice of the buyer, `unified` where it is the machine's own memory.

    `device` is "cuda" for whatever PyTorch calls so, AMD's included; bandwidth is in GB (10^9) a second, as published.
    """

    name: str
    device: Device
    memory_gib: float | None
    bandwidth_gb_s: float
    unified: bool


@lru_cache(maxsize=1)
def devices() -> tuple[DeviceKind, ...]:
    """The table, in its order."""
    kinds: dict[str, Device] = {"cpu": "cpu", "cuda": "cuda", "mps": "mps"}
    with TABLE.open(encoding="utf-8", newline="") as lines:
        return tuple(
            DeviceKind(
                name=row["name"],
                device=kinds[row["device"]],
                memory_gib=float(row["memory_gib"]) if row["memory_gib"] else None,
                bandwidth_gb_s=float(row["bandwidth_gb_s"]),
                unified=row["unified"] == "yes",
            )
            for row in csv.DictReader(lines)
        )


def find_device(said: str) -> DeviceKind | None:
    """The device that a text names, None where it names none of the table.

    Every word of the device's name must be there: "RTX 4060" is not a 4060 Ti. Where one name has several sizes of
    memory, the size in the text decides, else the first row of the table.
    """
    sizes = [float(size) for size in _MEMORY.findall(said)]
    words = _words(_MEMORY.sub(" ", said))
    found = [(name, kind) for name, kind in _named() if name <= words]
    if not found:
        return None
    longest = max(len(name) for name, _ in found)
    kinds = [kind for name, kind in found if len(name) == longest]
    return min(kinds, key=lambda kind: _apart(kind.memory_gib, sizes))


def _apart(memory: float | None, sizes: list[float]) -> float:
    return min((abs((memory or size) - size) for size in sizes), default=0.0)


@lru_cache(maxsize=1)
def _named() -> tuple[tuple[frozenset[str], DeviceKind], ...]:
    return tuple((frozenset(_words(kind.name)), kind) for kind in devices())


def _words(text: str) -> set[str]:
    """Words that tell devices apart: RTX3060Ti is 3060 and ti; the letters before a series say nothing more."""
    words: set[str] = set()
    for piece in _PIECE.findall(text.lower()):
        series = re.fullmatch(r"(?:rtx|gtx|rx)?(\d{3,4})(ti|super|xtx|xt|gre|s)?", piece)
        parts = [part for part in series.groups() if part] if series else [piece]
        words.update(_OTHER_WORDS.get(part, part) for part in parts)
    return words - _NOISE - {""}
