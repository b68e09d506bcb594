"""Prompts of this node's own: what its users ask, without answers. Children answer them when a release is made.

An operator puts them into `prompts/` in the home, `en.finance.jsonl` for en/finance, in the form of every file of rows
(U10); what stands as `output` is not read. They never leave this node.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from registry.home import Home
from registry.paths import NodePath
from registry.rows import Row, read_rows

MAX_BYTES: Final = 64 << 20
MOST: Final = 10_000


def own_prompts(home: Home, place: NodePath) -> list[Row]:
    """The prompts of a place, each once, without answers. Raises BadData where the file is none of rows."""
    file = home.prompts / f"{str(place).replace('/', '.')}.jsonl"
    if not file.exists():
        return []
    rows = read_rows(file, MAX_BYTES, MOST)
    return list(dict.fromkeys(replace(row, output="", group="") for row in rows))
