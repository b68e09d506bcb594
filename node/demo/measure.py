"""Who knows what: every model of the demo on held-out rows that no node was given."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

MAX_ROWS_BYTES = 16 << 20

Figures = dict[str, dict[str, list[bool]]]  # model -> set of rows -> which rows were right


@dataclass(frozen=True, slots=True)
class Question:
    """One release of one node, and the sets of rows that it is asked."""

    label: str
    home: Path
    release: str
    sets: tuple[str, ...]


def measure_all(questions: Sequence[Question], rows: Path) -> Figures:
    """Measure, one process per core; a process loads one model at a time."""
    workers = min(len(questions), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        answers = [pool.submit(_measure, question, rows) for question in questions]
        return {question.label: done.result() for question, done in zip(questions, answers, strict=True)}


def _measure(question: Question, rows: Path) -> dict[str, list[bool]]:
    """Which rows of every set the release answers, asked as its own path."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from node.context import opened_node
    from node.models import load
    from node.settings import load_settings
    from registry.paths import Ref
    from registry.rows import read_rows
    from sync.score import evaluate_rows

    ref = Ref.parse(question.release)
    with opened_node(load_settings({"home": question.home, "threads": 1})) as node:
        _, loaded = load(node, ref)
        return {
            name: evaluate_rows(loaded, read_rows(rows / f"{name}.test.jsonl", MAX_ROWS_BYTES), str(ref.path))[1]
            for name in question.sets
        }
