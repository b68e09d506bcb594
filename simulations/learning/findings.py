"""What many cells say together: means with 95 % intervals over seeds, regret, the recommended policy and why.

How the policy is picked was written down before any cell was played:

1. *Kept* are the policies that a node can follow whose accuracy, the mean over the days of what clients get, is at most
   `WITHIN` below the best of them.
2. Of the kept, the one that moves the fewest bytes is recommended; of those within `ALIKE` of its bytes, the one with
   the lowest 95th percentile of staleness.
3. It becomes the product's default only where, paired by seed with the default of now, the 95 % interval of the
   difference in accuracy lies above -`WITHIN` and that of the difference in bytes below 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, quantiles
from typing import Any, Final

from simulations.learning.intervals import interval
from simulations.learning.playing import Played
from simulations.learning.scenario import LEVELS, ORACLE, level_of

WITHIN: Final = 0.02
ALIKE: Final = 0.05
TARGET: Final = 0.8  # of what the oracle reaches in the end, under the same seed
DEFAULT: Final = "every-n"
YARDSTICKS: Final = (ORACLE, "never")

Figures = dict[str, float | None]


def figures(record: Mapping[str, Any]) -> Figures:
    """One cell in figures. Accuracies are shares, forgetting and gain are points, bytes are MB."""
    days, last, first = record["days"], record["days"][-1], record["days"][0]
    found: Figures = {
        "accuracy_over_days": fmean(clients(day) for day in days[1:]),
        "accuracy_clients": clients(last),
        "worst_leaf": min(last["leaves"].values()),
        "peer_gain": 100 * (fmean(last["listeners"].values()) - fmean(first["listeners"].values())),
        "mb": record["bytes"]["total"] / 1e6,
        "releases": sum(record["releases"].values()),
        "refused_candidates": record["refused"],
    }
    found |= _by_level(days)
    found |= {
        f"mb_{way}_{level}": size / 1e6
        for level, ways in record["bytes"]["levels"].items()
        for way, size in ways.items()
    }
    found |= _pushed(record["pushes"]) | _stale(record["staleness"])
    found["attack_success"] = record["attack"]["master"]
    leaves = [value for path, value in record["attack"].items() if path.count("/") + 2 == len(LEVELS)]
    found["attack_success_leaf"] = fmean(leaves)
    return found


def clients(day: Mapping[str, Any]) -> float:
    """What the clients get on a day: the mean of their accuracies."""
    return fmean(day["leaves"].values())


def _by_level(days: Sequence[Mapping[str, Any]]) -> Figures:
    """Accuracy on the leaves' rows, and points lost of old and of once learned knowledge, at every level."""
    new = [level_means(day["places"], "new") for day in days]
    old = [level_means(day["places"], "old") for day in days]
    found: Figures = {}
    for level in LEVELS:
        found[f"accuracy_{level}"] = new[-1][level]
        found[f"forgot_old_{level}"] = 100 * (old[0][level] - old[-1][level])
        found[f"forgot_learned_{level}"] = 100 * (max(day[level] for day in new) - new[-1][level])
    return found


def level_means(places: Mapping[str, Mapping[str, float]], what: str) -> dict[str, float]:
    """Of one day: the mean over the places of each level, of `old` knowledge or of the leaves' rows (`new`)."""
    found: dict[str, list[float]] = {}
    for path, shares in places.items():
        values = [value for name, value in shares.items() if (name == "old") == (what == "old")]
        found.setdefault(level_of(path), []).append(fmean(values))
    return {level: fmean(values) for level, values in found.items()}


def _pushed(pushes: Mapping[str, Any]) -> Figures:
    def count(who: str, what: str) -> int:
        return int(pushes[who].get(what, 0))

    every = ("honest", "inner", "attacker")
    found: Figures = {
        f"pushes_{what}": sum(count(who, what) for who in every)
        for what in ("sent", "released", "superseded", "rejected")
    }
    found["pushes_waiting"] = sum(count(who, what) for who in every for what in ("waiting", "open"))
    found["honest_rejected"] = count("honest", "rejected") / max(1, count("honest", "sent"))
    lies = count("attacker", "sent")
    found["attackers_released"] = count("attacker", "released") / lies if lies else None
    return found


def _stale(staleness: Mapping[str, Sequence[float]]) -> Figures:
    found: Figures = {}
    for what in ("hours", "versions"):
        values = staleness[what]
        found[f"stale_{what}_p50"] = percentile(values, 50)
        found[f"stale_{what}_p95"] = percentile(values, 95)
    return found


def percentile(values: Sequence[float], which: int) -> float | None:
    """A percentile by linear interpolation; None of nothing."""
    if len(values) < 2:
        return values[0] if values else None
    return quantiles(values, n=100, method="inclusive")[which - 1]


def summary(cells: Sequence[Figures]) -> dict[str, dict[str, float]]:
    """Of every figure the mean with its interval, over the cells that have it."""
    names = list(dict.fromkeys(name for cell in cells for name in cell))
    had = {name: [value for cell in cells if (value := cell.get(name)) is not None] for name in names}
    return {name: interval(values) for name, values in had.items() if values}


def by_policy(played: Sequence[Played]) -> dict[str, dict[int, Mapping[str, Any]]]:
    """The records of the cells by policy and seed."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for one in played:
        found.setdefault(one.playing.policy, {})[one.playing.seed] = one.record
    return found


def compared(played: Sequence[Played]) -> dict[str, Any]:
    """The table of policies, with regret and target where the oracle was played, and the recommendation."""
    records = by_policy(played)
    cells = {policy: {seed: figures(record) for seed, record in seeds.items()} for policy, seeds in records.items()}
    for policy, seeds in cells.items():
        for seed, cell in seeds.items():
            if seed in records.get(ORACLE, {}):
                best = records[ORACLE][seed]
                cell["regret"] = 100 * (_over_days(cells[ORACLE][seed]) - _over_days(cell))
                cell.update(_to_target(records[policy][seed]["days"], TARGET * clients(best["days"][-1])))
    table = {policy: summary(list(seeds.values())) for policy, seeds in cells.items()}
    return {"policies": table, "recommended": recommend(cells)}


def _over_days(cell: Figures) -> float:
    return float(cell["accuracy_over_days"] or 0.0)


def _to_target(days: Sequence[Mapping[str, Any]], target: float) -> Figures:
    """Days and MB until the clients get what was aimed at, on the last day at which that was so for good; or None."""
    reached = [day for day in days if clients(day) >= target]
    return {
        "reached_target": float(bool(reached)),
        "days_to_target": reached[0]["day"] if reached else None,
        "mb_to_target": reached[0]["bytes"] / 1e6 if reached else None,
    }


def recommend(cells: Mapping[str, Mapping[int, Figures]]) -> dict[str, Any]:
    """The policy by the rule above, and what it says beside the default of now."""
    can = {policy: list(seeds.values()) for policy, seeds in cells.items() if policy not in YARDSTICKS}
    if not can:
        return {"policy": None, "reason": "no policy that a node can follow was played"}
    accuracy = {policy: fmean(map(_over_days, found)) for policy, found in can.items()}
    best = max(accuracy.values())
    kept = sorted(policy for policy in can if accuracy[policy] >= best - WITHIN)
    mb = {policy: _mean(can[policy], "mb") for policy in kept}
    least = min(mb.values())
    alike = [policy for policy in kept if mb[policy] <= least * (1 + ALIKE)]
    chosen = min(alike, key=lambda policy: (_mean(can[policy], "stale_hours_p95"), policy))
    beside = _beside(cells, chosen)
    return {
        "policy": chosen,
        "kept": kept,
        "becomes_default": beside["becomes_default"] if beside else False,
        "beside_default": beside,
        "reason": f"{', '.join(kept)} are within {100 * WITHIN:g} points of the best ({100 * best:.1f} %); of these "
        f"{chosen} moves {mb[chosen]:.1f} MB, the least or as good as that",
    }


def _beside(cells: Mapping[str, Mapping[int, Figures]], chosen: str) -> dict[str, Any] | None:
    """The recommended policy beside the default, paired by seed."""
    if DEFAULT not in cells:
        return None
    seeds = sorted(cells[chosen].keys() & cells[DEFAULT].keys())
    if not seeds:
        return None

    def paired(what: Callable[[Figures], float]) -> dict[str, float]:
        return interval([what(cells[chosen][seed]) - what(cells[DEFAULT][seed]) for seed in seeds])

    accuracy, mb = paired(_over_days), paired(lambda cell: float(cell["mb"] or 0.0))
    better = accuracy["mean"] - accuracy["within"] > -WITHIN and mb["mean"] + mb["within"] < 0
    return {"accuracy": accuracy, "mb": mb, "becomes_default": better and len(seeds) > 1 and chosen != DEFAULT}


def _mean(cells: Sequence[Figures], name: str) -> float:
    values = [value for cell in cells if (value := cell.get(name)) is not None]
    return fmean(values) if values else float("inf")


def grouped(played: Sequence[Played], key: Callable[[Played], str]) -> dict[str, Any]:
    """The figures of the cells of each group."""
    groups: dict[str, list[Figures]] = {}
    for one in played:
        groups.setdefault(key(one), []).append(figures(one.record))
    return {name: summary(cells) for name, cells in groups.items()}
