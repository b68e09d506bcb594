"""What the cells say beside the paper: accuracy, order, gaps and uploads, with agreement and disagreement named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from statistics import correlation
from typing import Any, Final

from simulations.learning.intervals import interval
from simulations.reproduction.methods import CENTRALISED
from simulations.reproduction.paper import TABLE, UPLOADED, Column
from simulations.reproduction.study import Played, Study, figure

BEFORE: Final = "fedit"  # what gaps and uploads are measured from
Z_95: Final = 1.96


def findings(study: Study, rates: Mapping[str, float], played: Played) -> dict[str, Any]:
    """All figures of a study; the same for the same cells."""
    table, sweep = study.table(rates), study.sweep()
    found: dict[str, Any] = {
        "settings": _settings(study),
        "learning_rates": {
            m: {
                "chosen": rates[m],
                "tried": {f"{cell.learning_rate:g}": 100 * figure(played[cell]) for cell in cells},
                "at_an_end": len(cells) > 1 and rates[m] in {min(study.rates), max(study.rates)},
            }
            for m, cells in sweep.items()
        },
        "columns": {},
    }
    for column in study.columns:
        rows = {m: [played[cell] for cell in table[m, column]] for m in study.methods}
        figures = {m: [100 * figure(record) for record in records] for m, records in rows.items()}
        found["columns"][column.name] = {
            "methods": {
                m: {
                    "accuracy": interval(figures[m]),
                    "paper": TABLE.get(m, {}).get(column),
                    **_uploads(m, column, rows),
                    "diverged": [record["diverged"] for record in records],
                    "curves": [record["accuracy"] for record in records],
                    "average_error": [record["average_error"] for record in records],
                }
                for m, records in rows.items()
            },
            **compared(column, figures, next(iter(rows.values()))[0]["judged"]),
        }
    return found


def compared(column: Column, figures: Mapping[str, Sequence[float]], judged: int) -> dict[str, Any]:
    """The order of the methods that the paper has too, its rank correlation with the paper's, and each pair's gap.

    `figures` are in % by seed. A pair is `resolved` where its gap is wider than its 95 % interval: of the differences
    by seed where there are several seeds, else of two shares of `judged` rows (too wide, as both are of the same rows).
    """
    both = [m for m in TABLE if m in figures]
    ours = {m: interval(figures[m])["mean"] for m in both}
    theirs = {m: TABLE[m][column] for m in both}
    pairs = []
    for one, other in combinations(both, 2):
        gap = interval([x - y for x, y in zip(figures[one], figures[other], strict=True)])
        share = (ours[one] + ours[other]) / 200
        alone = 100 * Z_95 * (2 * share * (1 - share) / judged) ** 0.5
        within = gap["within"] if gap["count"] > 1 else alone
        said = theirs[one] - theirs[other]
        pairs.append(
            {"pair": [one, other], "ours": gap["mean"], "within": within, "paper": said,
             "same": (gap["mean"] > 0) == (said > 0), "resolved": abs(gap["mean"]) > within}
        )  # fmt: skip
    return {
        "order": sorted(ours, key=lambda m: -ours[m]),
        "paper_order": sorted(theirs, key=lambda m: -theirs[m]),
        "rank_correlation": rank_correlation(list(ours.values()), list(theirs.values())),
        "pairs": pairs,
    }


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's; equal values share the mean of their ranks. None where one has no order."""
    ranks = [_ranks(values) for values in (one, other)]
    if any(len(set(values)) < 2 for values in ranks):
        return None
    return correlation(*ranks)


def _uploads(method: str, column: Column, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    sent = interval([sum(record["uploaded"]) for record in rows[method]])["mean"]
    before = interval([sum(record["uploaded"]) for record in rows[BEFORE]])["mean"] if BEFORE in rows else 0
    return {
        "uploaded": sent,
        "share": sent / before if before and method != CENTRALISED else None,
        "paper_share": UPLOADED.get(method, {}).get(column.rank),
    }


def _settings(study: Study) -> dict[str, Any]:
    """The study and what its cells have in common."""
    cell = asdict(study.cell(study.methods[0], study.swept, 1, study.rates[0]))
    columns = {"columns": [column.name for column in study.columns], "swept": study.swept.name}
    return {**asdict(study), **columns, "batch": cell["batch"], "arithmetic": cell["arithmetic"]}


def _ranks(values: Sequence[float]) -> list[float]:
    return [sum(other < value for other in values) + sum(other == value for other in values) / 2 for value in values]
