"""The findings as a picture: accuracy by round, and gaps to FedIT beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulations.learning.plots import svg
from simulations.reproduction.findings import BEFORE
from simulations.reproduction.methods import METHODS

# Okabe and Ito: apart for colour-blind readers
COLOURS: Final = dict(
    zip(METHODS, ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#777777"), strict=True)
)


def draw(found: Mapping[str, Any]) -> str:
    """An SVG with two pictures for each column of the table."""
    columns = found["columns"]
    figure = Figure(figsize=(4.6 * len(columns), 7.2), layout="constrained")
    axes = figure.subplots(2, len(columns), squeeze=False)
    for at, (name, column) in enumerate(columns.items()):
        _curves(axes[0][at], name, column["methods"])
        _gaps(axes[1][at], column["methods"])
    axes[0][0].legend(fontsize="small")
    return svg(figure)


def _curves(axes: Axes, name: str, methods: Mapping[str, Any]) -> None:
    for method, row in methods.items():
        means = [100 * sum(values) / len(values) for values in zip(*row["curves"], strict=True)]
        axes.plot(range(1, len(means) + 1), means, ".-", color=COLOURS[method], label=method)
    axes.set(title=name, xlabel="round", ylabel="% right of the test rows", ylim=(0, 100))
    axes.grid(visible=True, alpha=0.3)


def _gaps(axes: Axes, methods: Mapping[str, Any]) -> None:
    names = [name for name in methods if name != BEFORE]
    for offset, who, alpha in ((-0.2, "here", 1.0), (0.2, "in the paper", 0.4)):
        figures = {name: row["accuracy"]["mean"] if who == "here" else row["paper"] for name, row in methods.items()}
        base = figures.get(BEFORE)
        if base is None:
            return
        told = [(at, name) for at, name in enumerate(names) if figures[name] is not None]
        places, gaps = [at + offset for at, _ in told], [figures[name] - base for _, name in told]
        axes.bar(places, gaps, 0.4, color=[COLOURS[name] for _, name in told], alpha=alpha, label=who)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set(ylabel=f"points above {BEFORE}")
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.legend(fontsize="small")
