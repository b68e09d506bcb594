"""Costs that are easy to add up in one's head."""

from __future__ import annotations

from simulations.scale.costs import Costs

COSTS = Costs(
    pull_child_s=1.0, pull_parent_s=0.25, take_in_s=0.1, check_s=2.0, merge_s=10.0, merge_update_s=5.0, offer_s=1.0,
    release_bytes=1000.0, update_bytes=1000.0, look_s=0.0, latency_s=0.5, link_bytes_per_s=2000.0,
)  # fmt: skip
