"""What cells of the source tables say."""

from __future__ import annotations

import math


def amount(text: str) -> float | None:
    """The positive number that a cell holds; None for anything else."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None
