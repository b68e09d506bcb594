"""Knowledge across bases: the bundled base teaches a smaller one, and that one the bundled one, by their answers.

The smaller base is made beforehand, on one core:

    cp node/bundled/model/tokenizer.json WORK/sprout/
    python -m node.bundled.build --data DATA --out WORK/sprout --tokens 6e6 --size sprout

A teacher is fine-tuned on the true answers of a subdomain that neither base knows, then gives its own answers to the
same prompts; the student trains a LoRA on them beside what was known. `true` is a student that has the rows themselves,
which a teacher never sends.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Final

from node.material import rehearsal
from registry.rows import Row, of_split
from registry.taught import TaughtRow, write_taught
from simulations.learning.intervals import interval
from simulations.learning.trained import digest_of
from sync.delta import WEIGHTS_FILE, Delta, write_adapter
from sync.distil import teach
from sync.model import LoadedModel, load_model
from sync.score import evaluate_rows
from sync.tokens import Example
from sync.train import TrainPlan, fit
from tests.benchmarks.knowledge.charts import bars
from tests.benchmarks.knowledge.children import sampled
from tests.benchmarks.knowledge.study import BASE, Study, anchors, known

ABOVE: Final = "en/finance"
SUBDOMAINS: Final = ("cards", "transfers")
LABELS: Final = ("hard", "top-8", "true")
DIRECTIONS: Final = ("seedling to sprout", "sprout to seedling")
PLAN: Final = TrainPlan(rank=16, alpha=16.0, epochs=4, batch_tokens=2048, learning_rate=3e-3, patience=99)
ROWS, TEST, KNOWN = 300, 120, 150
REPLAY: Final = 0.5


def run(study: Study) -> dict[str, Any]:
    """The table, and a picture of it."""
    subdomains = SUBDOMAINS[:1] if study.smallest else SUBDOMAINS
    seeds = range(1, (1 if study.smallest else study.seeds) + 1)
    table: dict[str, Any] = {}
    for direction in DIRECTIONS:
        for labels in LABELS:
            found = []
            for seed in seeds:
                for name in subdomains:
                    about = facts(study, direction, name, labels, seed)
                    found.append(study.cell(about, partial(lesson, study, direction, name, labels, seed)))
                    study.say(f"{direction}, {labels}, {name}, seed {seed}: {found[-1]}")
            figures = {key for one in found for key in one}
            table[f"{direction}, {labels}"] = {
                key: interval([one[key] for one in found if key in one]) for key in sorted(figures)
            }
    bars(
        {name: [row["before"], row["student"], row["teacher"]] for name, row in table.items()},
        ["the student before", "the student after", "its teacher"],
        "exact match on held-out rows of the subdomain, 95 % intervals",
        study.picture("grafts"),
    )
    return {"plan": str(PLAN), "rows": sizes(study), "seeds": len(seeds), "subdomains": subdomains, "table": table}


def sizes(study: Study) -> tuple[int, int, int]:
    """Prompts that travel, rows that are scored, rows of what was known."""
    return (60, 10, 10) if study.smallest else (ROWS, TEST, KNOWN)


def bases(study: Study, direction: str) -> tuple[Path, Path]:
    """The folders of the teacher's base and of the student's."""
    folders = {"seedling": BASE, "sprout": study.work / "sprout" / "model"}
    teacher, student = direction.split(" to ")
    return folders[teacher], folders[student]


def facts(study: Study, direction: str, name: str, labels: str, seed: int) -> dict[str, Any]:
    """Everything that a cell follows from."""
    weights = [
        hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest() for base in bases(study, direction)
    ]
    return {"study": "grafts", "bases": weights, "name": name, "labels": labels, "seed": seed, "of": about(study)}


def about(study: Study) -> list[object]:
    """What all cells have in common."""
    return [str(PLAN), REPLAY, sizes(study)]


def lesson(study: Study, direction: str, name: str, labels: str, seed: int) -> dict[str, Any]:
    """One teacher and one student: exact match of both against the true answers, what was forgotten, what it cost."""
    teacher_base, student_base = bases(study, direction)
    path, (rows, test) = f"{ABOVE}/{name}", rows_of(study, name)
    adapter = taught_adapter(study, teacher_base, path, rows, seed)
    teacher = load_model(teacher_base, [adapter])
    started = time.monotonic()
    told = (
        [TaughtRow(row) for row in rows] if labels == "true" else teach(teacher, rows, path, int(labels == "top-8") * 8)
    )
    asked = time.monotonic() - started
    student = load_model(student_base, [])
    right = partial(share_right, rows=test, path=ABOVE)
    before, knew = right(student), share_right(student, known_rows(study), ABOVE)
    started = time.monotonic()
    delta = learned(study, student, told, ABOVE, seed)
    seconds = time.monotonic() - started
    after = load_model(student_base, [delta])
    return {
        "before": before,
        "student": right(after),
        "teacher": share_right(teacher, test, path),
        "agreement": mean(evaluate_rows(after, said(teacher, test, path), ABOVE)[1]),
        "known_before": knew,
        "known": share_right(after, known_rows(study), ABOVE),
        "seconds": seconds,
        "answer_seconds": asked,
        "bytes": size_of(told),
        "adapter_bytes": adapter_bytes(adapter),
    }


def rows_of(study: Study, name: str) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Prompts that travel, and rows to score; the same for every seed."""
    rows, (train, test, _) = study.rows("banking77", subdomain=name), sizes(study)
    return sampled(of_split(rows, "train"), train, 1), sampled(of_split(rows, "test"), test, 1)


def known_rows(study: Study) -> tuple[Row, ...]:
    """What both bases were trained for."""
    return sampled(known(), sizes(study)[2], 1)


def said(teacher: LoadedModel, test: Sequence[Row], path: str) -> list[Row]:
    """The teacher's own answers to rows that it was not trained on."""
    return [one.row for one in teach(teacher, test, path, 0)]


def taught_adapter(study: Study, base: Path, path: str, rows: Sequence[Row], seed: int) -> Delta:
    """The teacher's adapter, trained on the true answers."""
    return learned(study, load_model(base, []), [TaughtRow(row) for row in rows], path, seed)


def learned(study: Study, loaded: LoadedModel, told: Sequence[TaughtRow], path: str, seed: int) -> Delta:
    """An adapter trained on answers, beside what was known."""
    new = [Example(one.row, path, top=one.top) for one in told]
    old = [Example(row, path) for row in of_split(anchors(), "train")]
    examples = [*new, *rehearsal([old], len(new), REPLAY, random.Random(seed))]
    working = study.work / "running" / digest_of([path, seed, str(told), loaded.model.config.hidden_size, about(study)])
    return fit(loaded, examples, [], replace(PLAN, seed=seed), working).delta


def share_right(loaded: LoadedModel, rows: Sequence[Row], path: str) -> float:
    """Exact match."""
    return mean(evaluate_rows(loaded, rows, path)[1])


def size_of(told: Sequence[TaughtRow]) -> int:
    """Bytes of the set as it travels."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "answers.jsonl")
        write_taught(told, file)
        return file.stat().st_size


def adapter_bytes(delta: Delta) -> int:
    """Bytes of the adapter that cannot travel."""
    with tempfile.TemporaryDirectory() as folder:
        write_adapter(delta, Path(folder, WEIGHTS_FILE))
        return Path(folder, WEIGHTS_FILE).stat().st_size
