"""EuroEval's open models as a catalogue, with their measured scores as quality."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from recommender.candidate import Candidate
from recommender.constraints import Constraints
from recommender.rank import Predict, Quality

UNKNOWN: Final = ("", "?", "nan", "inf")
# EuroEval's tasks that stand for ours; of others the mean over all tasks is taken.
MEASURED: Final[Mapping[str, tuple[str, ...]]] = {
    "text-generation": ("instruction-following", "knowledge", "common-sense-reasoning", "european-values"),
    "text-classification": ("sentiment-classification",),
    "token-classification": ("named-entity-recognition",),
    "question-answering": ("reading-comprehension",),
    "summarization": ("summarization",),
}
LANGUAGES: Final = {
    "danish": "da", "dutch": "nl", "english": "en", "finnish": "fi", "french": "fr", "german": "de", "italian": "it",
    "norwegian": "no", "polish": "pl", "portuguese": "pt", "spanish": "es", "swedish": "sv", "icelandic": "is",
    "czech": "cs", "estonian": "et", "latvian": "lv", "lithuanian": "lt", "greek": "el", "hungarian": "hu",
    "slovak": "sk", "bulgarian": "bg", "serbian": "sr", "croatian": "hr", "romanian": "ro", "ukrainian": "uk",
    "catalan": "ca", "slovene": "sl", "bosnian": "bs", "albanian": "sq", "faroese": "fo", "belarusian": "be",
}  # fmt: skip


def catalogue(folder: Path) -> tuple[list[Candidate], Predict]:
    """EuroEval's models of known size that were measured often enough, and the mean of their scores for a need."""
    columns: dict[tuple[str, str], int] = {}
    cells: dict[str, dict[int, list[float]]] = {}
    for row in _rows(folder / "scores.csv"):
        column = columns.setdefault((LANGUAGES.get(row["language"], row["language"]), row["task"]), len(columns))
        cells.setdefault(row["model"], {}).setdefault(column, []).append(float(row["primary"]))
    facts = [
        Candidate(
            row["model"],
            "table",
            "generative",
            parameters_b=float(row["parameters"]) / 1e9,
            context_tokens=int(float(row["context"])) if row["context"] not in UNKNOWN else None,
            commercial=row["commercial"] == "✓",
        )
        for row in _rows(folder / "models.csv")
        if row["type"] != "🔍" and row["open"] != "✗" and row["parameters"] not in UNKNOWN
        if len(cells.get(row["model"], ())) >= 8 and "(" not in row["model"]
    ]
    table = np.full((len(facts), len(columns)), np.nan)
    for place, one in enumerate(facts):
        for column, values in cells[one.id].items():
            table[place, column] = np.mean(values)
    return facts, _predictor(facts, table, list(columns))


def _predictor(facts: Sequence[Candidate], table: Any, columns: Sequence[tuple[str, str]]) -> Predict:
    """Same task and language where measured, else what the model has on average above the mean of those columns."""
    level = np.nanmean(table, axis=0)
    row_of = {one.id: place for place, one in enumerate(facts)}
    ahead = np.nanmean(table - level, axis=1)

    @cache
    def points(task: str | None, languages: tuple[str, ...]) -> Any:
        wanted = MEASURED.get(task or "", ())
        of_task = np.array([not wanted or name in wanted for _, name in columns])
        spoken = np.array([not languages or code in languages for code, _ in columns])
        of_both = of_task & spoken if (of_task & spoken).any() else of_task
        apart = np.where(np.isnan(table[:, of_both]), ahead[:, None], table[:, of_both] - level[of_both])
        return level[of_both].mean() + apart.mean(axis=1)

    def predict(candidates: Sequence[Candidate], need: Constraints) -> Quality:
        found = points(need.task and need.task.value, need.languages.value if need.languages else ())
        mean = found[[row_of[one.id] for one in candidates]]
        return Quality(mean, mean - 5, mean + 5, ["measured elsewhere"] * len(candidates))

    return predict


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))
