"""Measure what steps cost, then compare real trees of 15 processes with what the simulation says of them.

    taskset -c 0 python -m tests.benchmarks.scale --out tests/benchmarks/scale/results.json
    python -m tests.benchmarks.scale --costs simulations/scale/costs.json

On one core, since two that a machine shows may be one: what a step costs alone it then does not cost beside another.

Down, the costs of one hop are measured on two processes; up, those of an update, a release and an offer on trees of two
and three. Both foretell fifteen processes, which share the cores of this machine. The exit code is 1 where the last
arrival is foretold worse than within a quarter. `--costs` also measures what an update costs on the bundled base and
writes everything that `node simulate scale` reads.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from simulations.scale.ascent import Ascent
from simulations.scale.conditions import Conditions
from simulations.scale.costs import Costs
from simulations.scale.descent import Descent
from simulations.scale.shape import Shape
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.scale.real import RealTree, real_tree
from tests.benchmarks.scale.upward import Rise, rising_tree
from tests.forks import prepare

LINE, TREE = Shape(2, 2), Shape(15, 2)
WITHIN = 0.25
LOOK_S = 0.5  # between two looks of a node for something to hint at (node.api.hints)
SIMULATED = 500
INBOX = Path(__file__).parents[1] / "results.json"


def main() -> int:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="releases that are followed in each tree")
    parser.add_argument("--out", type=Path, help="JSON file for the comparison")
    parser.add_argument("--costs", type=Path, help="JSON file for the costs of all steps")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    prepare()
    with tempfile.TemporaryDirectory() as work, real_tree(LINE, Path(work)) as line:
        hop = hops(line, given.rounds)
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as work, real_tree(TREE, Path(work)) as tree:
        real = [followed(tree) for _ in range(given.rounds)]
    found = compared(hop, real, cores)
    up = compared_up(given.rounds, cores)
    record = {"machine": describe_machine(), "hop": hop, **found, "up": up}
    sys.stdout.write(json.dumps({**found, "up": up}, indent=1) + "\n")
    if given.out:
        given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if given.costs:
        write_costs(hop, given.costs)
    return 0 if found["within"] and up["within"] else 1


def hops(line: RealTree, rounds: int) -> dict[str, float]:
    """Medians of one hop: seconds of the child's and the parent's core, and of waiting for neither."""
    found = []
    for _ in range(rounds):
        before = line.cpu_s(0), line.cpu_s(1)
        (seconds,) = followed(line)
        parent, child = line.cpu_s(0) - before[0], line.cpu_s(1) - before[1]
        found.append((seconds, child, parent))
        time.sleep(2.0)
    seconds, child, parent = (median(column) for column in zip(*found, strict=True))
    return {
        "seconds": seconds,
        "pull_child_s": child,
        "pull_parent_s": parent,
        "wait_s": max(0.0, seconds - child - parent - LOOK_S / 2),
    }


def followed(tree: RealTree) -> list[float]:
    """One release: when each node had it, in seconds; then the tree comes to rest."""
    began = time.monotonic()
    arrivals = tree.arrivals(tree.release(), began)
    time.sleep(2.0)
    return arrivals


def compared(hop: dict[str, float], real: list[list[float]], cores: int) -> dict[str, Any]:
    """Mean arrival by level, and of the last node: real, foretold, and their ratio."""
    costs = Costs(
        pull_child_s=hop["pull_child_s"], pull_parent_s=hop["pull_parent_s"], latency_s=hop["wait_s"], look_s=LOOK_S,
        take_in_s=0, check_s=0, merge_s=0, merge_update_s=0, offer_s=0, release_bytes=1, update_bytes=1,
        link_bytes_per_s=1e9,
    )  # fmt: skip
    conditions = Conditions(cores=cores)
    foretold = [Descent(TREE, costs, conditions, seed).play().arrived[1:] for seed in range(SIMULATED)]
    levels = TREE.levels()[1:]

    def by_level(rounds: list[Any]) -> list[float]:
        return [round(mean(mean(one[level.start - 1 : level.stop - 1]) for one in rounds), 3) for level in levels]

    last_real, last_foretold = mean(max(one) for one in real), mean(max(one) for one in foretold)
    ratio = last_foretold / last_real
    return {
        "nodes": TREE.nodes,
        "cores": cores,
        "rounds": len(real),
        "real_by_level_s": by_level(real),
        "foretold_by_level_s": by_level(foretold),
        "real_last_s": [round(max(one), 3) for one in real],
        "foretold_last_s": round(last_foretold, 3),
        "foretold_by_real": round(ratio, 3),
        "within": abs(ratio - 1) <= WITHIN,
    }


def risen(shape: Shape, rounds: int) -> list[Rise]:
    """A real tree in which every leaf delivers at once, so many times."""
    with tempfile.TemporaryDirectory() as work, rising_tree(shape, Path(work)) as tree:
        return [tree.rise() for _ in range(rounds)]


def update_costs(rounds: int) -> Costs:
    """What an update, a release and an offer cost: differences between trees that have one of them more."""
    alone, both, chain = (risen(shape, rounds) for shape in (LINE, Shape(3, 2), Shape(3, 1)))
    one, two, inner = (
        median(rise.inner_cpu_s[at] for rise in found) for found, at in ((alone, 0), (both, 0), (chain, 1))
    )
    leaf = median(rise.leaf_cpu_s[0] for rise in alone)
    return Costs(
        pull_child_s=0, pull_parent_s=0, take_in_s=leaf, check_s=max(0.0, two - one), merge_update_s=0,
        merge_s=max(0.0, 2 * one - two), offer_s=max(0.0, inner - one), release_bytes=1, update_bytes=1, look_s=0,
        latency_s=max(0.0, median(rise.released[0] for rise in alone) - one - leaf), link_bytes_per_s=1e9,
    )  # fmt: skip


def compared_up(rounds: int, cores: int) -> dict[str, Any]:
    """When the root serves what every leaf learned: real, foretold, and their ratio."""
    costs = update_costs(rounds)
    real = [rise.released[0] for rise in risen(TREE, rounds)]
    conditions = Conditions(every=2, window_s=0.0, cores=cores)
    foretold = mean(max(Ascent(TREE, costs, conditions, seed).play().ages) for seed in range(SIMULATED))
    ratio = foretold / mean(real)
    return {
        "costs": costs.model_dump(include={"take_in_s", "check_s", "merge_s", "offer_s", "latency_s"}),
        "real_root_s": [round(one, 3) for one in real],
        "foretold_root_s": round(foretold, 3),
        "foretold_by_real": round(ratio, 3),
        "within": abs(ratio - 1) <= WITHIN,
    }


def taken_a_second() -> float:
    """Updates that an inbox on SQLite takes, as the benchmark `inbox` measured last."""
    found = json.loads(INBOX.read_text(encoding="utf-8")).get("inbox")
    if found is None:
        raise SystemExit(f"measure it first: python -m tests.benchmarks inbox --out {INBOX}")
    return float(found["figures"]["SQLite, 1 at a time"]["median"])


def write_costs(hop: dict[str, float], file: Path) -> None:
    """Everything that `node simulate scale` reads, of the bundled base."""
    from tests.benchmarks.scale.steps import TRAVELLING, measure

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        steps = measure(Path(work))
    costs = Costs(
        pull_child_s=round(hop["pull_child_s"], 3),
        pull_parent_s=round(hop["pull_parent_s"], 4),
        take_in_s=round(1 / taken_a_second(), 4),
        check_s=round(steps.check_s, 1),
        merge_s=round(steps.merge_s, 1),
        merge_update_s=round(steps.merge_update_s, 1),
        offer_s=round(steps.offer_s, 1),
        release_bytes=float(steps.update_bytes),
        update_bytes=float(steps.update_bytes),
        look_s=LOOK_S,
    )
    about = {"machine": describe_machine(), "of": f"the bundled base, rank 16, {TRAVELLING} prompts with each update"}
    file.write_text(json.dumps({**about, "costs": costs.model_dump()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
