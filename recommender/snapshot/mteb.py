"""MTEB's results (CC0) and task descriptions (Apache-2.0): embedding models on texts in hundreds of languages."""

from __future__ import annotations

import csv
import gzip
import io
from datetime import date
from pathlib import Path
from typing import Final

import langcodes

from recommender.candidate import Architecture, Candidate
from recommender.evidence import Benchmark, Evidence, Measurement
from recommender.snapshot.cells import amount
from recommender.snapshot.licences import licence, sellable

SOURCE: Final = "MTEB"
LICENSE: Final = "CC0-1.0"
MAX_LANGUAGES: Final = 30  # of a benchmark: one in hundreds of languages says nothing of any
MAX_TEXT_CHARS: Final = 600
TEXT_TASKS: Final = frozenset(
    {
        "BitextMining", "Classification", "Clustering", "InstructionReranking", "InstructionRetrieval",
        "MultilabelClassification", "PairClassification", "Regression", "Reranking", "Retrieval", "STS",
        "Summarization", "ZeroShotClassification",
    }
)  # fmt: skip


def mteb(folder: Path) -> tuple[dict[str, Candidate], Evidence]:
    """Embedding models and their main scores on tasks over text; scores that are no share of one are left out."""
    candidates = {row["name"]: _candidate(row) for row in _rows((folder / "models.csv").read_bytes())}
    tasks = {row["name"]: row for row in _rows((folder / "tasks.csv").read_bytes()) if row["type"] in TEXT_TASKS}
    benchmarks = {name: _benchmark(row) for name, row in tasks.items()}
    scores = _rows(gzip.decompress((folder / "scores_model_task.csv.gz").read_bytes()))
    measurements = [
        Measurement(row["model"], benchmarks[row["task"]], 100 * float(row["main_score"]))
        for row in scores
        if row["model"] in candidates and row["task"] in benchmarks and -1 <= float(row["main_score"]) <= 1
    ]
    return candidates, Evidence.of(measurements)


def _rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8"))))


def _candidate(row: dict[str, str]) -> Candidate:
    spdx = licence(row["license"])
    size, memory = amount(row["n_parameters"]), amount(row["memory_usage_mb"])
    context, width = amount(row["max_tokens"]), amount(row["embed_dim"])
    return Candidate(
        row["name"],
        "table",
        "embedding",
        parameters_b=None if size is None else size / 1e9,
        context_tokens=None if context is None else int(context),
        license=spdx,
        commercial=sellable(spdx),
        languages=codes(row["languages"]),
        tasks=("feature-extraction",),
        weights="local" if row["open_weights"] == "True" else "api",
        released=date.fromisoformat(row["release_date"]) if row["release_date"] else None,
        memory_gb=None if memory is None else memory * 2**20 / 1e9,
        family=row["adapted_from"] or None,
        architecture=Architecture(hidden=None if width is None else int(width)),
    )


def _benchmark(row: dict[str, str]) -> Benchmark:
    languages = codes(row["eval_langs"])
    return Benchmark(
        row["type"],
        languages if len(languages) <= MAX_LANGUAGES else (),
        domains=tuple(sorted(filter(None, row["domains"].split("|")))),
        kind="embedding",
        name=row["name"],
        metric=row["main_score"],
        source=SOURCE,
        license=LICENSE,
        text=row["description"][:MAX_TEXT_CHARS],
    )


def codes(listed: str) -> tuple[str, ...]:
    """ISO 639-1 codes (639-3 where there is none) of languages as MTEB writes them: "eng-Latn|deu-Latn"."""
    parts = {part.partition("-")[0] for part in listed.split("|") if part}
    return tuple(sorted({langcodes.standardize_tag(part) for part in parts if langcodes.tag_is_valid(part)}))
