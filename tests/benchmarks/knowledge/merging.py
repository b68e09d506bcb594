"""What a parent keeps of what its children learned: by merger, by where consolidation's prompts come from, by size.

A cell is a family of children, a merger and a source of prompts. In each, the children are merged and consolidated as
`sync.candidate` does it, and the parent is asked the rows of every child, and old knowledge, in its own role. A gain is
what the child alone has over the base; `kept` is the part of it that the parent has. Cells are computed in the order of
what they decide; Ctrl-C writes what is there and names what is open.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import torch

from registry.rows import Row, split_of
from sync.aggregate.merging import Grams
from sync.consolidate import Lesson, consolidate, lessons_as_examples, merge
from sync.delta import Delta
from sync.gate import check_loss
from sync.input_grams import cohort_grams
from sync.judging import CANARIES, CANARY_POINTS, undisputed
from sync.model import LoadedModel, add
from sync.parent import PromotionPlan
from sync.sampled import sampled
from sync.score import Scores, answered, evaluate, evaluate_rows
from sync.tokens import Example
from tests.benchmarks.knowledge.children import Family, base_digest, base_model, trained
from tests.benchmarks.knowledge.families import BITS, MEASURE, PROMPT_LOSS, family
from tests.benchmarks.knowledge.judging import drawn_canaries
from tests.benchmarks.knowledge.study import Study, anchors, known

Merger = Literal["mean", "sum", "ties", "dare", "regmean"]
Prompts = Literal["none", "50", "200", "800", "sampled"]

Asked = TypeVar("Asked")

PLAN: Final = PromotionPlan()
GRAM_ROWS: Final = 200
SMALL_PROMPTS: Final = 16
KNOWN_ROWS: Final = 600
LEAST_GAIN: Final = 0.02
ADAPTER_BYTES_PER_NUMBER: Final = 4


@dataclass(frozen=True, slots=True)
class Cell:
    """One place in the table."""

    family: str
    children: int
    merger: Merger
    prompts: Prompts
    seed: int = 1


def cells(study: Study) -> list[Cell]:
    """Every cell, first those that decide the defaults."""
    if study.smallest:
        return [Cell("finance", 2, "mean", "sampled"), Cell("law", 2, "ties", "50")]
    mergers: tuple[Merger, ...] = ("mean", "regmean", "ties", "sum", "dare")
    sources: tuple[Prompts, ...] = ("800", "sampled", "none", "200", "50")
    first = [Cell("finance", 2, merger, source) for source in sources[:3] for merger in mergers[:3]]
    rest = [
        Cell(name, children, merger, source, seed)
        for seed in range(1, study.seeds + 1)
        for children in (2, 4, 8)
        for name in MEASURE
        for source in sources
        for merger in mergers
    ]
    return list(dict.fromkeys([*first, *rest]))


def run(study: Study) -> dict[str, Any]:
    """The table as far as it is computed."""
    found: list[dict[str, Any]] = []
    wanted = cells(study)
    try:
        for cell in wanted:
            what = {
                "study": "merging",
                **asdict(cell),
                "plan": asdict(PLAN),
                "base": base_digest(),
                "small": study.smallest,
            }
            found.append({**asdict(cell), **study.cell(what, lambda cell=cell: measure(study, cell))})
            study.say(line(found[-1]))
    except KeyboardInterrupt:
        study.say("stopped: the rest is open")
    if len(found) > 1:
        plot(found, study.picture("merging"))
    return {"cells": found, "open": [asdict(cell) for cell in wanted[len(found) :]], "prompt_loss": PROMPT_LOSS}


def line(record: Mapping[str, Any]) -> str:
    """A cell for people."""
    kept = ", ".join("none to keep" if value is None else f"{value:.0%}" for value in record["kept"].values())
    return (
        f"{record['family']} {record['children']} {record['merger']:8} {record['prompts']:8} kept {kept}; "
        f"{record['lost_points']:+.1f} points lost; {record['seconds']:.0f} s"
    )


def measure(study: Study, cell: Cell) -> dict[str, Any]:
    """Merge, consolidate, and ask everybody."""
    of, loaded = family(study, cell.family, cell.children, cell.seed), base_model()
    deltas = {child: trained(job, study.work, loaded) for child, job in of.jobs.items()}
    metric = MEASURE[cell.family]
    old = known()[: 30 if study.smallest else KNOWN_ROWS]
    before = {child: figure(evaluate(loaded, rows, of.path), metric) for child, rows in of.tests.items()}
    alone = {child: asked(loaded, deltas[child], lambda c=child: figure(evaluate(loaded, of.tests[c], c), metric))
             for child in of.jobs}  # fmt: skip
    old_before = evaluate(loaded, old, of.path).exact_match
    draws = drawn_canaries(loaded, {row.task for row in old}, of.path)
    canaries = [still_asked(loaded, deltas.values(), rows, of.path) for rows in draws]
    started = time.monotonic()
    wanted = SMALL_PROMPTS if study.smallest else PLAN.prompts
    lessons = [taught(loaded, deltas[child], child, of.jobs[child].rows, cell, wanted) for child in of.jobs]
    prompts_s = time.monotonic() - started
    start = merged(cell.merger, loaded, deltas, lessons, of)
    result = fitted(study, cell, loaded, start, lessons, of)
    seconds = time.monotonic() - started
    after = asked(
        loaded, result, lambda: {c: figure(evaluate(loaded, rows, of.path), metric) for c, rows in of.tests.items()}
    )
    old_after = asked(loaded, result, lambda: evaluate(loaded, old, of.path).exact_match)
    return {
        "metric": metric,
        "before": before,
        "alone": alone,
        "after": after,
        "kept": {child: part(before[child], alone[child], after[child]) for child in of.jobs},
        "known_before": old_before,
        "known_after": old_after,
        "lost_points": 100 * (old_before - old_after),
        "canaries": asked(loaded, result, lambda: [canary_loss(loaded, rows, of.path) for rows in canaries if rows]),
        "prompts_per_child": {lesson.path: len(lesson.rows) for lesson in lessons},
        "prompts_s": prompts_s,
        "seconds": seconds,
        "seconds_per_child": seconds / len(of.jobs),
        "bytes_up": {child: sent(deltas[child], lesson, cell) for child, lesson in zip(of.jobs, lessons, strict=True)},
        "bytes_release": size(result),
        "threads": torch.get_num_threads(),
    }


def still_asked(loaded: LoadedModel, deltas: Iterable[Delta], rows: Sequence[Row], path: str) -> list[Row]:
    """The canaries of a draw that the gate asks."""
    return undisputed(rows, (asked(loaded, delta, lambda: evaluate_rows(loaded, rows, path)[1]) for delta in deltas))


def canary_loss(loaded: LoadedModel, rows: Sequence[Row], path: str) -> dict[str, float]:
    """How many canaries were asked, and what the gate says of them: points lost, and allowed."""
    right = evaluate_rows(loaded, rows, path)[1]
    result = check_loss(CANARIES, [True] * len(rows), right, CANARY_POINTS)
    return {"asked": len(rows), "lost": result.value or 0.0, "allowed": result.threshold or 0.0}


def part(before: float, alone: float, after: float) -> float | None:
    """The part of a child's gain that the parent has; None where there is next to none to keep."""
    return (after - before) / (alone - before) if alone - before >= LEAST_GAIN else None


def figure(scores: Scores, metric: str) -> float:
    """More is better, whatever is counted."""
    return -scores.bits_per_byte if metric == BITS else scores.exact_match


def asked(loaded: LoadedModel, delta: Delta, question: Callable[[], Asked]) -> Asked:
    """What a question comes to with an adapter added."""
    add(loaded, delta)
    try:
        return question()
    finally:
        add(loaded, delta, by=-1.0)


def taught(loaded: LoadedModel, delta: Delta, child: str, rows: Sequence[Row], cell: Cell, wanted: int) -> Lesson:
    """The child's answers to its own prompts that travelled, or to those that its model says by itself."""
    if cell.prompts == "none":
        return Lesson(child, [])
    if cell.prompts == "sampled":
        return Lesson(child, asked(loaded, delta, lambda: sampled(loaded, child, wanted, cell.seed)))
    count = min(int(cell.prompts), len(rows))
    return Lesson(child, asked(loaded, delta, lambda: [row for row, _ in answered(loaded, rows[:count], child)]))


def merged(
    merger: Merger, loaded: LoadedModel, deltas: Mapping[str, Delta], lessons: Sequence[Lesson], of: Family
) -> Delta:
    """The start of consolidation, cut to the rank budget."""
    cohort = list(deltas.values())

    def grams() -> Sequence[Grams]:
        rows = [list(lesson.rows) or list(of.jobs[lesson.path].rows) for lesson in lessons]
        examples = [
            [Example(row, lesson.path) for row in some[:GRAM_ROWS]] for some, lesson in zip(rows, lessons, strict=True)
        ]
        return cohort_grams(loaded, cohort, examples)

    return merge(None, cohort, PLAN.rank_budget, rule=merger, grams=grams).delta


def fitted(study: Study, cell: Cell, loaded: LoadedModel, start: Delta, lessons: Sequence[Lesson], of: Family) -> Delta:
    """Consolidate as a candidate does; without prompts the merge is the outcome."""
    if cell.prompts == "none":
        return start
    old = [row for row in anchors() if split_of(row) != "test"][: 60 if study.smallest else None]
    examples = lessons_as_examples(lessons, old, of.path, sorted(of.jobs), seed=cell.seed, passes=PLAN.epochs)
    plan = replace(PLAN, seed=cell.seed).consolidation(start)
    work = study.work / "running" / f"merging-{cell.family}-{cell.children}-{cell.merger}-{cell.prompts}-{cell.seed}"
    shutil.rmtree(work, ignore_errors=True)  # seconds of a half-done cell would not count
    delta = consolidate(loaded, start, examples, plan, work).delta
    shutil.rmtree(work, ignore_errors=True)
    return delta


def size(delta: Delta) -> int:
    """Bytes of an adapter in float32, its header aside."""
    return sum((factor.a.numel() + factor.b.numel()) * ADAPTER_BYTES_PER_NUMBER for factor in delta.values())


def sent(delta: Delta, lesson: Lesson, cell: Cell) -> int:
    """Bytes that a child sends: its adapter, and the rows that travel."""
    travels = [] if cell.prompts == "sampled" else lesson.rows
    return size(delta) + sum(len(row.input.encode()) + len(row.output.encode()) + 30 for row in travels)


def plot(found: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Gain kept against seconds per child, a mark for each merger, a colour for each source of prompts."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure_, axes = plt.subplots(figsize=(7, 4.5))
    marks = {"mean": "o", "regmean": "s", "ties": "^", "sum": "v", "dare": "D"}
    colours = {"none": "C7", "50": "C0", "200": "C1", "800": "C2", "sampled": "C3"}
    for one in found:
        shares = [value for value in one["kept"].values() if value is not None]
        if not shares:
            continue
        kept = sum(shares) / len(shares)
        axes.scatter(one["seconds_per_child"], kept, marker=marks[one["merger"]], color=colours[one["prompts"]])
        axes.annotate(f"{one['family']} {one['children']}", (one["seconds_per_child"], kept), fontsize=6)
    for name, mark in marks.items():
        axes.scatter([], [], marker=mark, color="k", label=name)
    for name, colour in colours.items():
        axes.scatter([], [], marker="o", color=colour, label=f"prompts: {name}")
    axes.axhline(0.95, linewidth=0.5, color="k")
    axes.set_xlabel("seconds per child")
    axes.set_ylabel("part of the children's gain at the parent")
    axes.legend(fontsize=7)
    figure_.tight_layout()
    figure_.savefig(file)
    plt.close(figure_)
