"""How well models are chosen: `python -m tests.benchmarks.recommender --data FOLDER --out FILE.json [--only PART ...]`.

The data are euroeval/, mteb/ and apibench/ in the folder. A part replaces its own figures in the file and leaves the
others; the picture beside it is drawn of all that the file holds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from tests.benchmarks.machine import describe_machine
from tests.benchmarks.recommender import embedding, european, requests

PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "euroeval": european.measure,
    "mteb": embedding.measure,
    "apibench": requests.measure,
}
GOALS = {
    ("euroeval", "language held out", "regret@1"): 2.4,
    ("euroeval", "task held out", "regret@1"): 6.5,
    ("mteb", None, "regret@1"): 4.0,
    ("apibench", None, "recall@10"): 0.60,
}


def main() -> None:
    """Measure the parts asked for, write the figures, draw them."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.recommender", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    given = parser.parse_args()
    results = json.loads(given.out.read_text()) if given.out.exists() else {}
    for name in given.only:
        figures = PARTS[name](given.data / name)
        results[name] = {"measured": datetime.now(UTC).date().isoformat(), "machine": describe_machine()} | figures
        given.out.write_text(json.dumps(results, indent=1) + "\n")
    draw(results, given.out.with_suffix(".svg"))


def draw(results: dict[str, Any], file: Path) -> None:
    """One panel for each goal: ways of choosing with their 95 % intervals, the goal as a line."""
    panels = [goal for goal in GOALS if goal[0] in results]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 4), squeeze=False, layout="constrained")
    for axis, (part, side, metric) in zip(axes[0], panels, strict=True):
        ways = results[part][side] if side else results[part]
        rows = [(name, way[metric]) for name, way in ways.items() if isinstance(way, dict) and metric in way]
        for height, (_, value) in enumerate(rows):
            low, high = value["ci95"]
            axis.plot([low, high], [height, height], color="tab:gray")
            axis.plot(value["mean"], height, "o", color="tab:green")
        axis.set_yticks(range(len(rows)), [name for name, _ in rows])
        axis.axvline(GOALS[part, side, metric], color="tab:red", linestyle="--", linewidth=1)
        axis.set_xlabel(metric)
        axis.set_title(f"{part}{', ' + side if side else ''}", fontsize=10)
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
