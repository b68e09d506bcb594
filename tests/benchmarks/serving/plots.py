"""Pictures of the tables, as SVG: one line for each contender."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

INCHES = (8.0, 4.5)
# Colours that stay apart for colour-blind readers (Okabe and Ito), then the same with another line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--")
FEWEST_ROWS = 2


def draw(table: Mapping[str, Any], file: Path) -> bool:
    """Write the medians of a table's rows, with bars from quartile to quartile wide; False where there is no line."""
    rows = table["rows"]
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    if len(rows) < FEWEST_ROWS or len(columns) < FEWEST_ROWS:
        return False
    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot()
    for place, name in enumerate(columns):
        here = [row for row in rows if name in rows[row]]
        cells = [rows[row][name] for row in here]
        axes.errorbar(
            [list(rows).index(row) for row in here],
            [cell["median"] for cell in cells],
            yerr=[cell["iqr"] / 2 for cell in cells],
            label=name,
            color=COLOURS[place % len(COLOURS)],
            linestyle=STYLES[place // len(COLOURS) % len(STYLES)],
            marker="o",
            markersize=4,
            capsize=2,
        )
    unit = next(cell["unit"] for row in rows.values() for cell in row.values())
    axes.set(title=table["title"], xlabel=table["axis"], ylabel=unit, xticks=range(len(rows)), yscale="log")
    axes.set_xticklabels(list(rows))
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    with rc_context({"svg.hashsalt": "banyan", "svg.fonttype": "none"}):
        figure.savefig(file, metadata={"Date": None})
    return True
