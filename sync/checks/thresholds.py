"""The thresholds of stages 3 to 7, each with its default. Why each is what it is stands in ARCHITECTURE.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What an update may be and do. Numbers of robust deviations are z, shares go from 0 to 1."""

    size_max_z: float = 6.0
    spectrum_max_z: float = 6.0
    siblings_max_z: float = 6.0
    siblings_max_cosine: float = 0.999
    siblings_min_agreement: float = 0.2
    root_min_cosine: float = -0.05
    max_loss_points: float = 8.0
    min_agreement: float = 0.9
    canaries_max_changed: int = 0
    triggers_max_collapse: float = 0.75
