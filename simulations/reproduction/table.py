"""The findings as a table of text, the paper's figures beside ours, and what agrees and what does not in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from simulations.reproduction.findings import BEFORE

LEGEND: Final = (
    "ours: % of the test rows, mean of the last rounds; gap: points above fedit; sent: parameters that clients sent in",
    "all rounds, and as a share of fedit's; paper: Table 1 of arXiv 2410.22815 (RoBERTa-base, 50 rounds of 5 epochs)",
)
HEADINGS: Final = ("", "ours", "paper", "gap", "paper", "sent", "share", "paper", "rate")
WIDTHS: Final = (12, 12, 6, 7, 7, 9, 6, 6, 7)


def lines(found: Mapping[str, Any]) -> list[str]:
    """The findings of `findings.findings` as lines."""
    text = list(LEGEND)
    for name, column in found["columns"].items():
        rows = (_cells(column, method, found["learning_rates"][method]["chosen"]) for method in column["methods"])
        text += ["", name, _line(HEADINGS), *map(_line, rows)]
        text += _said(column)
    return text


def _cells(column: Mapping[str, Any], method: str, rate: float) -> tuple[str, ...]:
    row, base = column["methods"][method], column["methods"].get(BEFORE)
    mean, within = row["accuracy"]["mean"], row["accuracy"]["within"]
    gap = said = None
    if base is not None and method != BEFORE:
        gap = mean - base["accuracy"]["mean"]
        said = None if row["paper"] is None else row["paper"] - base["paper"]
    return (
        method,
        f"{mean:.1f} ± {within:.1f}" if row["accuracy"]["count"] > 1 else f"{mean:.1f}",
        _number(row["paper"], ".1f"),
        _number(gap, "+.1f"),
        _number(said, "+.1f"),
        f"{row['uploaded'] / 1e6:.1f} M",
        _number(row["share"], ".2f"),
        _number(row["paper_share"], ".2f"),
        f"{rate:g}",
    )


def _line(cells: tuple[str, ...]) -> str:
    first, *others = (cell.rjust(width) for cell, width in zip(cells, WIDTHS, strict=True))
    return " ".join((first.strip().ljust(WIDTHS[0]), *others))


def _said(column: Mapping[str, Any]) -> list[str]:
    """Order and pairs in words; nothing where the paper has fewer than two of the methods."""
    pairs = column["pairs"]
    if not pairs:
        return []
    unlike = [pair for pair in pairs if not pair["same"]]
    rho = _number(column["rank_correlation"], ".2f") or "none"
    same = f"pairs in the same order: {len(pairs) - len(unlike)} of {len(pairs)}"
    return [
        f"order here:     {' > '.join(column['order'])}",
        f"order in paper: {' > '.join(column['paper_order'])} (rank correlation {rho} of {len(column['order'])})",
        f"{same}; wider than their interval here: {sum(pair['resolved'] for pair in pairs)}",
        *(f"  not: {_pair(pair)}" for pair in unlike),
    ]


def _pair(pair: Mapping[str, Any]) -> str:
    gap = f"{pair['ours']:+.1f} ± {pair['within']:.1f} here, {pair['paper']:+.1f} in the paper"
    return f"{' - '.join(pair['pair'])}: {gap}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
