"""The Open LLM Leaderboard, both versions (MIT): generative models in English, run by Hugging Face."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

from recommender.candidate import Candidate
from recommender.evidence import Benchmark, Evidence, Measurement
from recommender.snapshot.licences import licence, sellable

SOURCE: Final = "Open LLM Leaderboard"
LICENSE: Final = "MIT"
FEWEST_LIKES: Final = 10  # thousands of entries are merges that nobody uses
FILES: Final = ("open-llm-leaderboard_old.csv", "open-llm-leaderboard_new.csv")
TASKS: Final = {
    "ARC": "knowledge",
    "HellaSwag": "common-sense-reasoning",
    "MMLU": "knowledge",
    "TruthfulQA": "knowledge",
    "Winogrande": "common-sense-reasoning",
    "GSM8K": "mathematics",
    "IFEval": "text-generation",
    "BBH": "reasoning",
    "MATH Lvl 5": "mathematics",
    "GPQA": "knowledge",
    "MUSR": "reasoning",
    "MMLU-PRO": "knowledge",
}


def open_llm(folder: Path) -> tuple[dict[str, Candidate], Evidence]:
    """Models that somebody likes, and their scores; of several runs of one model the best stands first and counts."""
    candidates: dict[str, Candidate] = {}
    measurements: dict[tuple[str, str], Measurement] = {}
    for name in FILES:
        with (folder / name).open(encoding="utf-8", newline="") as lines:
            rows = [row for row in csv.DictReader(lines) if int(row["Hub ❤️"] or 0) >= FEWEST_LIKES]
        for row in rows:
            candidates[row["Model"]] = _candidate(row)
            for column in TASKS.keys() & row.keys():
                one = Measurement(row["Model"], _benchmark(column), float(row[column]))
                measurements.setdefault((row["Model"], column), one)
    return candidates, Evidence.of(measurements.values())


def _candidate(row: dict[str, str]) -> Candidate:
    spdx = licence(row["Hub License"])
    size = float(row["#Params (B)"] or 0)
    return Candidate(
        row["Model"],
        "table",
        "generative",
        parameters_b=size if size > 0 else None,
        license=spdx,
        commercial=sellable(spdx),
        popularity=int(row["Hub ❤️"]),
    )


def _benchmark(column: str) -> Benchmark:
    return Benchmark(TASKS[column], ("en",), name=column, metric="points", source=SOURCE, license=LICENSE)
