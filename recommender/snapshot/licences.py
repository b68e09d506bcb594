"""Licences as tables write them, as SPDX identifiers, and whether they let their user sell."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from registry.cards import spdx_licence
from registry.errors import BadData

# SPDX identifiers that permit commercial use; with conditions, all of them.
_SELLABLE: Final = (
    "Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-3.0", "CC-BY-SA-4.0", "CC-BY-SA-3.0",
    "CC0-1.0", "ISC", "Unlicense", "AFL-3.0", "Artistic-2.0", "BSL-1.0", "GPL-3.0-only", "AGPL-3.0-only",
    "LGPL-3.0-only", "MPL-2.0", "WTFPL",
)  # fmt: skip


@lru_cache(maxsize=1024)
def licence(text: str) -> str | None:
    """SPDX identifier; None where a table says nothing, "other" or what SPDX does not list."""
    try:
        return spdx_licence(text.strip()) if text.strip() else None
    except BadData:
        return None


def sellable(spdx: str | None) -> bool | None:
    """Whether commercial use is allowed; None where that is not known."""
    if spdx is None:
        return None
    if "-NC" in spdx:
        return False
    return True if spdx in _SELLABLE else None
