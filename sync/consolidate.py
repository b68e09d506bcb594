"""Consolidation: after a merge, fit the merged adapter to what every teacher says.

Merging alone keeps a third to a half of what small models learned (measured; see the decisions in ARCHITECTURE.md). The
parent therefore trains the merged adapter for some minutes on the children's answers to prompts that may travel, and on
the old release's answers to everything known before. The same step finishes a rebase at the child, where the parent's
new release is one of the teachers.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.documents import CheckResult
from registry.rows import Row
from sync.aggregate.cohort import NotCovered
from sync.aggregate.merging import Grams
from sync.aggregate.rules import aggregate, needs_grams
from sync.delta import Delta, recompress, stack, total_norm
from sync.model import LoadedModel
from sync.tokens import Example
from sync.train import FitResult, StepReport, TrainPlan, fit

CONSOLIDATION_TOKENS = 2048  # in one step
FALL_BACK = "norm-clipping"  # covers every cohort, and no liar is longer than half of the others
SMALLEST = 1e-30
OWN_PATH_SHARE = 0.6  # how often a prompt is asked as the path itself; else as one of the roles below it


@dataclass(frozen=True, slots=True)
class Lesson:
    """Prompts with the answers of one teacher, and the path whose role the teacher speaks in."""

    path: str
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Merged:
    """An adapter to start from, the relative error that cutting it to its rank cost, and how it was merged.

    `rule` is the check `merge.rule`: not passed where the cohort was not what the rule that was asked for covers.
    """

    delta: Delta
    error: float
    rule: CheckResult


def merge(
    own: Delta | None,
    increments: Sequence[Delta],
    rank: int,
    *,
    rule: str = "mean",
    f: int = 0,
    grams: Callable[[], Sequence[Grams]] = tuple,
    seed: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Merged:
    """Add what a rule of aggregation makes of the increments to the own adapter, cut to the rank budget (G2).

    By default Δ = own + (1/n) Σ Δᵢ: a mean, because siblings share what they relearned of their parent (replay), and a
    sum would count it n times; consolidation restores each child's own part. Where the rule does not cover the cohort,
    the mean of the increments clipped to their median norm takes its place, and the result says so. The error is at
    most what is told: that of the rule's own cut and that of the last one, added.
    """
    started_s = clock()
    refused = ""
    try:
        measured = grams() if needs_grams(rule) else ()
        increment = aggregate(rule, increments, f=f, rank=rank, grams=measured, seed=seed)
    except NotCovered as not_covered:
        refused = f"{not_covered.message}; "
        increment = aggregate(FALL_BACK, increments)
    parts = [*([own] if own else []), increment.delta]
    whole = stack(parts)
    delta, error = recompress(whole, rank)
    if increment.error:
        error += increment.error * total_norm(increment.delta) / max(total_norm(whole), SMALLEST)
    exactly = "exactly" if increment.exact else f"with a relative error of {increment.error:.2g}"
    note = f" ({increment.note})" if increment.note else ""
    reason = f"{refused}{len(increments)} increments merged by {FALL_BACK if refused else rule} {exactly}{note}"
    cost_ms = max(0.0, (clock() - started_s) * 1000)
    check = CheckResult(
        name="merge.rule", value=increment.error, threshold=None, passed=not refused, reason=reason, cost_ms=cost_ms
    )
    return Merged(delta, error, check)


def lessons_as_examples(
    lessons: Sequence[Lesson], known: Sequence[Row], path: str, roles: Sequence[str], *, seed: int, passes: int
) -> list[Example]:
    """What `passes` over the lessons train on, in one list.

    Every lesson once a pass; every known row once in all, or as often as it takes to make them as many as the lessons.
    Many different rows of old knowledge, each seen once, hold it better than few that are seen again and again. A
    prompt is asked as `path` or, less often, as a role below it, so that both give the same answer.
    """
    rng = random.Random(seed)  # noqa: S311  shuffling, not secrets

    def asked_as(teacher: str) -> str:
        if rng.random() < OWN_PATH_SHARE or not roles:
            return path
        return rng.choice([teacher, *roles])

    taught = [(lesson.path, row) for _ in range(passes) for lesson in lessons for row in lesson.rows]
    examples = [Example(row, asked_as(teacher)) for teacher, row in taught]
    rehearsals = max(1, -(-len(taught) // len(known))) if known and passes else 0  # rounded up
    examples += [Example(row, asked_as(path)) for _ in range(rehearsals) for row in known]
    return examples


def consolidate(
    above: LoadedModel,
    start: Delta,
    examples: Sequence[Example],
    plan: TrainPlan,
    work: Path,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> FitResult:
    """Fit an adapter over `above` (the path without its own adapter), from `start`; resumes from `work`.

    The teachers' answers are hard labels, so all epochs of the plan are run; the gate judges the outcome. Without
    epochs or examples the start itself is the outcome.
    """
    if not examples or not plan.epochs:
        return FitResult(start, steps=0, best_epoch=-1, history=[])
    return fit(above, examples, [], plan, work, on_step, start=start)
