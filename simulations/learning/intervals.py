"""Means with the interval that few repetitions allow."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Final

# Two-sided 95 % quantiles of Student's t by degrees of freedom; beyond the table the last one.
T_95: Final = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def interval(values: Sequence[float]) -> dict[str, float]:
    """The mean, half the width of its 95 % interval (0 of a single value), and how many values there were."""
    count = len(values)
    if count < 2:
        return {"mean": mean(values), "within": 0.0, "count": count}
    spread = T_95[min(count - 1, len(T_95)) - 1] * stdev(values) / count**0.5
    return {"mean": mean(values), "within": spread, "count": count}
