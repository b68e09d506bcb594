"""What a fine-tune gained and what it cost: the same held-out rows scored before and after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from pydantic import BaseModel, ConfigDict

from node.material import Material
from registry.documents import Evaluation
from registry.rows import Row
from sync.model import LoadedModel
from sync.score import Scores, evaluate
from sync.tokens import Example

OWN, ANCHORS, EARLIER = "own", "anchors", "earlier"  # a data set's own name might tell what its owner keeps to himself
OnScored = Callable[[int, int], None]


class Figures(BaseModel):
    """What one model scored on one set of held-out rows."""

    model_config = ConfigDict(frozen=True)

    rows: int
    exact_match: float
    bits_per_byte: float
    seconds: float
    name_accuracy: float | None = None
    perplexity: float | None = None

    def metrics(self) -> dict[str, float]:
        """The figures that exist, by name."""
        return {name: float(value) for name, value in self if value is not None and name != "rows"}


class Measured(BaseModel):
    """One model on all sets; None where there are no rows. `earlier`: on the rows of each earlier run in turn."""

    model_config = ConfigDict(frozen=True)

    own: Figures | None
    anchors: Figures | None
    earlier: tuple[Figures | None, ...] = ()


def measure(loaded: LoadedModel, material: Material, path: str, on_scored: OnScored) -> Measured:
    """Score a model on the held-out rows of a fine-tune."""
    sets = [material.test, *(run.test for run in material.earlier)]
    total = sum(map(len, sets)) + len(material.anchors)
    done, found = 0, list[Figures | None]()
    for rows in sets:
        on_rows = partial(lambda before, count, _: on_scored(before + count, total), done)
        found.append(_figures(evaluate(loaded, rows, path, on_rows)) if rows else None)
        done += len(rows)
    anchors = _over_paths(loaded, material.anchors, lambda count: on_scored(done + count, total))
    return Measured(own=found[0], anchors=anchors, earlier=tuple(found[1:]))


def _figures(scores: Scores) -> Figures:
    return Figures(rows=scores.rows, **scores.metrics())


def _over_paths(loaded: LoadedModel, examples: Sequence[Example], on_done: Callable[[int], None]) -> Figures | None:
    """Old knowledge comes from several paths, each asked as itself; the figures are over all rows together."""
    by_path: dict[str, list[Row]] = {}
    for example in examples:
        by_path.setdefault(example.path, []).append(example.row)
    found: list[tuple[Scores, int]] = []
    done = 0
    for path, rows in sorted(by_path.items()):
        found.append((evaluate(loaded, rows, path), sum(len(row.output.encode()) for row in rows)))
        done += len(rows)
        on_done(done)
    if not found:
        return None
    size = sum(size for _, size in found)
    return Figures(
        rows=done,
        exact_match=sum(scores.exact_match * scores.rows for scores, _ in found) / done,
        bits_per_byte=math.fsum(scores.bits_per_byte * size for scores, size in found) / size if size else 0.0,
        seconds=sum(scores.seconds for scores, _ in found),
    )


def as_evaluations(before: Measured, after: Measured, path: str) -> tuple[Evaluation, ...]:
    """The figures as a release carries them (U9): those of the new model, and those of the old one as `..._before`."""
    found = []
    sets = [(OWN, before.own, after.own), (ANCHORS, before.anchors, after.anchors)]
    sets += [
        (f"{EARLIER}-{number}", old, new)
        for number, (old, new) in enumerate(zip(before.earlier, after.earlier, strict=True), 1)
    ]
    for name, old, new in sets:
        if old is None or new is None:
            continue
        earlier = {f"{key}_before": value for key, value in old.metrics().items() if key != "seconds"}
        found.append(Evaluation(dataset=name, split="test", rows=new.rows, metrics=new.metrics() | earlier, path=path))
    return tuple(found)
