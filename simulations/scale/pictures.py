"""The figures of `grid` as lines: how long news takes by the size of a tree, its fan-out, and what fails."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulations.scale.grid import MIDDLE, USUAL

INCHES: Final = (10.0, 3.6)
DOWN, UP, CACHED = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito: apart for colour-blind readers


def draw(cells: Sequence[Mapping[str, Any]]) -> str:
    """An SVG; the same figures give the same text."""
    figure = Figure(figsize=INCHES, layout="constrained")
    sizes, fan_outs, failing = figure.subplots(1, 3)
    plain = [cell for cell in cells if not cell["conditions"]["caching"]]
    calm = [cell for cell in plain if not cell["conditions"]["failing"]]
    middle = min(MIDDLE, max(cell["nodes"] for cell in cells))
    by_size = [cell for cell in calm if cell["fan_out"] == USUAL]
    _line(sizes, by_size, "nodes", "nodes of the tree")
    _line(fan_outs, [cell for cell in calm if cell["nodes"] == middle], "fan_out", f"children ({middle:,} nodes)")
    cached = [cell for cell in cells if cell["conditions"]["caching"]]
    fan_outs.plot(*_points(cached, "fan_out", "down", "arrived_s"), "s:", color=CACHED, label="down, from siblings too")
    share = [cell for cell in plain if cell["fan_out"] == USUAL and cell["nodes"] == middle]
    for what, key, colour in (("down", "arrived_s", DOWN), ("up", "leaf_to_root_s", UP)):
        told = sorted((cell["conditions"]["failing"], cell[what][key]["p95"]) for cell in share if cell[what][key])
        failing.plot(*zip(*told, strict=True), "o-", color=colour, label=what)
    failing.set(xlabel="share of contacts that fail", yscale="log")
    for axes in (sizes, fan_outs, failing):
        axes.set_ylabel("seconds, 95th percentile")
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "banyan", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _line(axes: Axes, cells: Sequence[Mapping[str, Any]], by: str, named: str) -> None:
    axes.plot(*_points(cells, by, "down", "arrived_s"), "o-", color=DOWN, label="down")
    axes.plot(*_points(cells, by, "up", "leaf_to_root_s"), "o-", color=UP, label="up")
    axes.set(xlabel=named, xscale="log", yscale="log")


def _points(cells: Sequence[Mapping[str, Any]], by: str, what: str, key: str) -> tuple[list[float], list[float]]:
    told = sorted({(cell[by], cell[what][key]["p95"]) for cell in cells if cell[what][key]})
    return [x for x, _ in told], [y for _, y in told]
