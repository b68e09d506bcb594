"""What was measured: scores of models on benchmarks, each with its source and its licence.

Scores are on a scale of 0 to 100 where more is better. Facts of a benchmark stand once, scores as columns: a hundred
thousand of them take a few megabytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recommender.candidate import Kind
from registry.errors import BadData

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A data set with a measure. `family` is what its translations share ("mmlu" of mmlu_de), "" where it has none.

    Languages are ISO 639-1 codes (639-3 where there is none), task a name that `relatedness.FORMS` knows or any other,
    `text` a description in words. `source` and `license` (SPDX) are those of its scores. A need is a benchmark
    that nobody has run: name, family, metric, source and licence stay empty.
    """

    task: str
    languages: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    kind: Kind = "generative"
    name: str = ""
    family: str = ""
    metric: str = ""
    source: str = ""
    license: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One score, 0 to 100, with half the width of its 95 % interval (nan where unknown) and the number of rows."""

    model: str
    benchmark: Benchmark
    value: float
    half_width: float = float("nan")
    rows: int = 0
    here: bool = False  # measured by this node

    def __post_init__(self) -> None:
        if not -100 <= self.value <= 100:
            raise BadData(f"the score of {self.model!a:.100} on {self.benchmark.name!a:.60} is not on a scale of 100")


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Measurements as columns: `model` and `benchmark` are positions in `models` and `benchmarks`."""

    models: tuple[str, ...]
    benchmarks: tuple[Benchmark, ...]
    model: Rows
    benchmark: Rows
    value: Floats
    half_width: Floats
    rows: Rows
    here: Mask

    def __len__(self) -> int:
        return len(self.value)

    @classmethod
    def of(cls, measurements: Iterable[Measurement]) -> Evidence:
        """Measurements in columns, in their order."""
        models: dict[str, int] = {}
        benchmarks: dict[Benchmark, int] = {}
        cells = [
            (
                models.setdefault(one.model, len(models)),
                benchmarks.setdefault(one.benchmark, len(benchmarks)),
                one.value,
                one.half_width,
                one.rows,
                one.here,
            )
            for one in measurements
        ]
        model, benchmark, value, half_width, rows, here = zip(*cells, strict=True) if cells else ((),) * 6
        return cls(
            tuple(models),
            tuple(benchmarks),
            np.array(model, dtype=np.int64),
            np.array(benchmark, dtype=np.int64),
            np.array(value, dtype=np.float64),
            np.array(half_width, dtype=np.float64),
            np.array(rows, dtype=np.int64),
            np.array(here, dtype=np.bool_),
        )

    @classmethod
    def joined(cls, parts: Sequence[Evidence]) -> Evidence:
        """Several bodies of evidence as one; of two scores of one cell the later part's counts."""
        models = {name: row for row, name in enumerate(dict.fromkeys(name for part in parts for name in part.models))}
        facts = {one: row for row, one in enumerate(dict.fromkeys(one for part in parts for one in part.benchmarks))}
        model = np.concatenate([np.array([models[name] for name in part.models])[part.model] for part in parts])
        benchmark = np.concatenate(
            [np.array([facts[one] for one in part.benchmarks])[part.benchmark] for part in parts]
        )
        _, last = np.unique((model * len(facts) + benchmark)[::-1], return_index=True)
        keep = np.sort(len(model) - 1 - last)
        columns = [
            np.concatenate([getattr(part, column) for part in parts])[keep]
            for column in ("value", "half_width", "rows", "here")
        ]
        return cls(tuple(models), tuple(facts), model[keep], benchmark[keep], *columns)

    def of_kind(self, kind: Kind) -> Evidence:
        """What was measured with benchmarks of one kind of model; other kinds' scores are not comparable."""
        right = np.array([one.kind == kind for one in self.benchmarks], dtype=np.bool_)
        return self.where(right[self.benchmark]) if len(self) else self

    def where(self, keep: Mask) -> Evidence:
        """Some of the measurements, with the models and benchmarks that are left."""
        models, model = np.unique(self.model[keep], return_inverse=True)
        benchmarks, benchmark = np.unique(self.benchmark[keep], return_inverse=True)
        return Evidence(
            tuple(self.models[row] for row in models),
            tuple(self.benchmarks[row] for row in benchmarks),
            model.astype(np.int64),
            benchmark.astype(np.int64),
            self.value[keep],
            self.half_width[keep],
            self.rows[keep],
            self.here[keep],
        )

    def table(self) -> Floats:
        """Scores as a matrix (models, benchmarks), nan where nobody measured."""
        scores = np.full((len(self.models), len(self.benchmarks)), np.nan)
        scores[self.model, self.benchmark] = self.value
        return scores
