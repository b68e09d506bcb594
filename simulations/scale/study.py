"""One tree under given circumstances: played once downwards and once upwards, and told in figures."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from simulations.scale.ascent import Ascended, Ascent
from simulations.scale.conditions import Conditions
from simulations.scale.costs import Costs
from simulations.scale.descent import Descended, Descent
from simulations.scale.shape import Shape

OnPlayed = Callable[[str, int], None]  # what is played, how many events were


@dataclass(frozen=True, slots=True)
class Cell:
    """One tree, its circumstances, a seed: the same figures each time, those of this machine aside."""

    shape: Shape
    conditions: Conditions
    seed: int


def play(cell: Cell, costs: Costs, on_played: OnPlayed = lambda what, events: None) -> dict[str, Any]:
    """The figures of a cell; `took` says what the simulation itself cost on this machine."""
    began = time.monotonic()
    down = Descent(cell.shape, costs, cell.conditions, cell.seed).play(lambda events: on_played("down", events))
    found = {"down": _down(cell.shape, down, costs)}
    events = down.events
    del down
    up = Ascent(cell.shape, costs, cell.conditions, cell.seed).play(lambda events: on_played("up", events))
    found["up"] = _up(cell.shape, up, costs)
    return {
        "nodes": cell.shape.nodes,
        "fan_out": cell.shape.fan_out,
        "levels": len(cell.shape.levels()),
        "conditions": asdict(cell.conditions),
        "seed": cell.seed,
        **found,
        "took": {"seconds": round(time.monotonic() - began, 2), "events": events + up.events, "peak_mb": peak_mb()},
    }


def peak_mb() -> float:
    """The most memory that this process has had, in MB."""
    per_mb = 1e6 if sys.platform == "darwin" else 1e3  # macOS counts bytes, Linux kilobytes
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_mb, 1)


def spread(values: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float] | None:
    """Median, 95th percentile and maximum; None of nothing."""
    if not len(values):
        return None
    middle, high, most = np.percentile(np.asarray(values, dtype=float), [50, 95, 100])
    return {"p50": round(float(middle), 3), "p95": round(float(high), 3), "max": round(float(most), 3)}


def _down(shape: Shape, found: Descended, costs: Costs) -> dict[str, Any]:
    arrived, sent = np.frombuffer(found.arrived), np.frombuffer(found.sent)
    return {
        "arrived_s": spread(arrived[1:]),
        "by_level_s": [spread(arrived[level.start : level.stop]) for level in shape.levels()[1:]],
        "bytes": float(sent.sum()),
        "bytes_from_one_node": spread(sent[sent > 0]),
        "longest_queue_s": round(found.queued_s, 3),
        "failed_contacts": found.failed,
        "core_hours": round((shape.nodes - 1) * (costs.pull_child_s + costs.pull_parent_s) / 3600, 3),
    }


def _up(shape: Shape, found: Ascended, costs: Costs) -> dict[str, Any]:
    releases, received = np.frombuffer(found.releases, dtype="l"), np.frombuffer(found.received)
    deepest = np.frombuffer(found.deepest, dtype="l")
    below = np.array(shape.below())
    merged = releases.sum()
    return {
        "leaf_to_root_s": spread(found.ages),
        "left_behind": found.left_behind,
        "lasted_s": round(found.lasted_s, 1),
        "releases": int(merged),
        "releases_by_level": [
            spread(releases[level.start : min(level.stop, shape.first_leaf)])
            for level in shape.levels()
            if level.start < shape.first_leaf
        ],
        "bytes_up": float(received.sum()),
        "bytes_up_into_one_node": spread(received),
        "bytes_down_of_its_releases": float((releases * below).sum() * costs.release_bytes),
        "deepest_inbox": spread(deepest),
        "busy_answers": found.busy,
        "failed_contacts": found.failed,
        "core_hours": round(_core_hours(received, merged, costs), 3),
    }


def _core_hours(received: np.ndarray[Any, Any], merged: float, costs: Costs) -> float:
    updates = received.sum() / costs.update_bytes
    of_updates = updates * (costs.take_in_s + costs.check_s + costs.merge_update_s)
    return float(of_updates + merged * (costs.merge_s + costs.offer_s)) / 3600
