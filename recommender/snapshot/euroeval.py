"""EuroEval's leaderboard (MIT): generative models few-shot, encoders fine-tuned, 24 and more European languages."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Final

from recommender.candidate import Architecture, Candidate, Kind
from recommender.evidence import Benchmark, Evidence, Measurement
from recommender.snapshot.cells import amount

SOURCE: Final = "EuroEval"
LICENSE: Final = "MIT"
LANGUAGES: Final = {
    "albanian": "sq", "belarusian": "be", "bosnian": "bs", "bulgarian": "bg", "catalan": "ca", "croatian": "hr",
    "czech": "cs", "danish": "da", "dutch": "nl", "english": "en", "estonian": "et", "faroese": "fo", "finnish": "fi",
    "french": "fr", "german": "de", "greek": "el", "hungarian": "hu", "icelandic": "is", "italian": "it",
    "latvian": "lv", "lithuanian": "lt", "norwegian": "no", "polish": "pl", "portuguese": "pt", "romanian": "ro",
    "serbian": "sr", "slovak": "sk", "slovene": "sl", "spanish": "es", "swedish": "sv", "ukrainian": "uk",
}  # fmt: skip
_ENCODER: Final = "🔍"
_VARIANT: Final = re.compile(r" \((?:zero-shot|val|zero-shot, val)\)$")
_TRANSLATION: Final = re.compile(r"_[a-z]{2}$")
_TOO_SHORT: Final = {"mistralai/Mistral-Small-3.1-24B-Instruct-2503": 131_072}  # the table says 8,192


def euroeval(folder: Path) -> tuple[dict[str, Candidate], Evidence]:
    """Every entry of the leaderboard as a candidate of its own, and its scores; variants are told apart by name."""
    candidates = {row["model"]: _candidate(row) for row in _rows(folder / "models.csv")}
    scores = _rows(folder / "scores.csv")
    benchmarks: dict[tuple[str, str, Kind], Benchmark] = {}
    measurements = []
    for row in scores:
        kind = candidates[row["model"]].kind
        place = (row["language"], row["dataset"], kind)
        if place not in benchmarks:
            benchmarks[place] = _benchmark(row, language_code(row["language"]), kind)
        value, half_width = float(row["primary"]), float(row["primary_ci"] or "nan")
        measurements.append(Measurement(row["model"], benchmarks[place], value, half_width))
    return candidates, Evidence.of(measurements)


def is_open(folder: Path) -> set[str]:
    """The entries whose weights can be had."""
    return {row["model"] for row in _rows(folder / "models.csv") if row["open"] != "✗"}


def base_of(entry: str) -> str:
    """The model behind a protocol variant: never on both sides of a split."""
    return _VARIANT.sub("", entry)


def language_code(name: str) -> str:
    """ISO 639-1 code of a language as the leaderboard calls it; the name itself where it is a new one."""
    return LANGUAGES.get(name, name)


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _candidate(row: dict[str, str]) -> Candidate:
    kind: Kind = "encoder" if row["type"] == _ENCODER else "generative"
    name = base_of(row["model"]).partition("#")[0]
    context = _TOO_SHORT.get(name) or amount(row["context"])
    parameters, vocabulary = amount(row["parameters"]), amount(row["vocabulary"])
    return Candidate(
        row["model"],
        "table",
        kind,
        parameters_b=None if parameters is None else parameters / 1e9,
        context_tokens=None if context is None else int(context),
        commercial=row["commercial"] == "✓",
        weights="api" if row["open"] == "✗" else "local",
        family=name,
        architecture=Architecture(vocabulary=None if vocabulary is None else int(vocabulary)),
    )


def _benchmark(row: dict[str, str], language: str, kind: Kind) -> Benchmark:
    family = _TRANSLATION.sub("", row["dataset"])
    return Benchmark(
        row["task"],
        (language,),
        kind=kind,
        name=row["dataset"],
        family=family,
        metric="primary",
        source=SOURCE,
        license=LICENSE,
    )
