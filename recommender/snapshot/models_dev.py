"""models.dev (MIT): what models are rented for, their context and their release."""

from __future__ import annotations

import csv
from collections import defaultdict
from datetime import date
from pathlib import Path
from statistics import median

from recommender.candidate import Candidate
from recommender.snapshot.licences import licence, sellable


def models_dev(folder: Path) -> dict[str, Candidate]:
    """Models with the median price of those who rent them out; free offers are trials and do not count."""
    prices = defaultdict(list)
    for row in _rows(folder / "providers.csv"):
        both = (row["usd_per_M_input"], row["usd_per_M_output"])
        if all(both) and float(both[0]) + float(both[1]) > 0:
            prices[row["model"].rpartition("/")[2].lower()].append((float(both[0]) + float(both[1])) / 2)
    return {
        row["id"]: _candidate(row, prices[row["id"].rpartition("/")[2].lower()]) for row in _rows(folder / "models.csv")
    }


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _candidate(row: dict[str, str], prices: list[float]) -> Candidate:
    spdx = licence(row["license"])
    return Candidate(
        row["id"],
        "table",
        "generative",
        context_tokens=int(float(row["context"])) if row["context"] else None,
        license=spdx,
        commercial=sellable(spdx),
        weights="local" if row["open_weights"] == "True" else "api",
        price_usd_per_mtok=median(prices) if prices else None,
        released=_day(row["release_date"]),
        family=row["family"] or None,
    )


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
