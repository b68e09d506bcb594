"""How many tokens a second a model says: every token reads the weights at work once, from where they lie.

    seconds = fixed + active bytes * (1 + experts, in mixtures) / (efficiency * bandwidth)

The three constants and that of what has to lie in main memory are in `data/speed.json`, fitted by
`tests/benchmarks/recommender/calibrate.py` on measured runs of others; what a node measures itself corrects them
(`own_factor`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recommender.hardware import GB

Floats = NDArray[np.float64]

CONSTANTS: Final = Path(__file__).parent / "data" / "speed.json"
MOST_FACTOR: Final = 10.0  # a measurement further from the estimate than this is taken for a mistake


@dataclass(frozen=True, slots=True)
class SpeedConstants:
    """Seconds per token that are fixed, shares of the published bandwidths, and what mixtures read more."""

    efficiency: float
    fixed_s: float
    experts: float
    spilled: float


@lru_cache(maxsize=1)
def shipped_constants() -> SpeedConstants:
    """Those that come with the package."""
    found = json.loads(CONSTANTS.read_bytes())["constants"]
    return SpeedConstants(**found)


def tokens_per_s(
    active_bytes: Floats,
    mixture: NDArray[np.bool_],
    resident: Floats,
    bandwidth_gb_s: Floats | float,
    ram_gb_s: Floats | float,
    constants: SpeedConstants,
) -> Floats:
    """Tokens a second for one request, an array over models.

    Args:
        active_bytes: bytes of weights that one token reads.
        mixture: whether the model is a mixture of experts.
        resident: the share of the weights that lies in the device's memory, 0 to 1.
        bandwidth_gb_s: of the device's memory.
        ram_gb_s: bandwidth of main memory, where the rest lies.
        constants: `shipped_constants()`, if not others.
    """
    read = active_bytes * (1 + constants.experts * mixture) / GB
    there = read * resident / (constants.efficiency * bandwidth_gb_s)
    elsewhere = read * (1 - resident) / (constants.spilled * ram_gb_s)
    speed: Floats = 1 / (constants.fixed_s + there + elsewhere)
    return speed


def resident_share(need_bytes: Floats, memory_gb: Floats | float) -> Floats:
    """The share of a model that the device's memory holds."""
    share: Floats = np.clip(memory_gb * GB / np.maximum(need_bytes, 1.0), 0.0, 1.0)
    return share


def own_factor(pairs: Iterable[tuple[float, float]]) -> float:
    """By how much a machine is faster than estimated: the median over (measured, estimated) tokens a second, else 1."""
    ratios = [measured / estimated for measured, estimated in pairs if measured > 0 and estimated > 0]
    usable = [ratio for ratio in ratios if 1 / MOST_FACTOR <= ratio <= MOST_FACTOR]
    return float(np.median(usable)) if usable else 1.0
