"""Bars with their intervals, as SVG: the same figures give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # Okabe and Ito: apart for colour-blind readers


def bars(groups: Mapping[str, Sequence[Mapping[str, float]]], series: Sequence[str], title: str, file: Path) -> None:
    """A group of bars by name, one bar a series, each with its mean and the half of its interval."""
    figure = Figure(figsize=(7.5, 4.0), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(series)
    for number, label in enumerate(series):
        places = [at + (number - (len(series) - 1) / 2) * width for at in range(len(groups))]
        means = [100 * found[number]["mean"] for found in groups.values()]
        within = [100 * found[number]["within"] for found in groups.values()]
        axes.bar(places, means, width, yerr=within, color=COLOURS[number % len(COLOURS)], label=label, capsize=2)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set(title=title, ylabel="%", ylim=(0, 100))
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.legend(fontsize="small")
    with rc_context({"svg.hashsalt": "banyan", "svg.fonttype": "none"}):
        figure.savefig(file, metadata={"Date": None})
