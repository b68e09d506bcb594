"""Whether a licence lets its user sell what a model gives, for the licences that models usually have.

After the texts of the licences. One that is not here says nothing, and a person has to read it.
"""

from __future__ import annotations

from typing import Final

_YES: Final = frozenset(
    (
        *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "cc0-1.0", "cc-by-4.0", "cc-by-3.0"),
        *("cc-by-sa-4.0", "cc-by-sa-3.0", "mpl-2.0", "gpl-3.0-only", "gpl-3.0-or-later", "agpl-3.0-only", "zlib"),
        *("lgpl-3.0-only", "artistic-2.0", "epl-2.0", "bsl-1.0", "cdla-permissive-2.0", "odc-by-1.0", "ecl-2.0"),
    )
)


def allows_commercial_use(expression: str | None) -> bool | None:
    """Yes, no, or None where it takes a person to say. One alternative of an "OR" is enough, an "AND" binds in all."""
    if not expression:
        return None
    plain = expression.replace("(", " ").replace(")", " ")
    if " OR " in plain and " AND " in plain:
        return None
    joined, every = (" OR ", any) if " OR " in plain else (" AND ", all)
    found = [_one(part.strip().lower()) for part in plain.split(joined)]
    if every(one is True for one in found):
        return True
    decided = all(one is False for one in found) if every is any else any(one is False for one in found)
    return False if decided else None


def _one(licence: str) -> bool | None:
    return True if licence in _YES else False if "-nc-" in f"{licence}-" else None
