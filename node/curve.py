"""The loss curve of a run as a picture, PNG and SVG. The only home of matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from node.metrics import Curve

SMOOTHING = 0.9  # weight of the steps before in the smoothed line
INCHES = (7.0, 4.0)
# Two colours that stay apart for colour-blind readers (Okabe and Ito).
TRAINING, VALIDATION = "#0072B2", "#D55E00"


def draw_curve(curve: Curve, title: str, to: Path) -> tuple[Path, Path]:
    """Write `to`.png and `to`.svg; the same curve gives the same bytes. Returns the two files."""
    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot()
    steps = [step for step, _ in curve.training]
    losses = [loss for _, loss in curve.training]
    axes.plot(steps, losses, color=TRAINING, alpha=0.25, linewidth=1)
    axes.plot(steps, smoothed(losses), color=TRAINING, linewidth=1.5, label="training (smoothed)")
    if curve.validation:
        axes.plot(*zip(*curve.validation, strict=True), color=VALIDATION, marker="o", markersize=4, label="validation")
    axes.set(title=title, xlabel="step", ylabel="loss on the answers (nats per token)")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    png, svg = to.with_suffix(".png"), to.with_suffix(".svg")
    with rc_context({"svg.hashsalt": "banyan", "svg.fonttype": "none"}):
        figure.savefig(png, dpi=120, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None})
    return png, svg


def smoothed(values: Sequence[float]) -> list[float]:
    """An exponential mean that is not drawn to zero at the beginning."""
    line: list[float] = []
    total = weight = 0.0
    for value in values:
        total = SMOOTHING * total + (1 - SMOOTHING) * value
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        line.append(total / weight)
    return line
