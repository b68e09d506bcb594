"""Pictures of the findings as SVG: the same figures give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.figure import Figure

from simulations.learning.findings import YARDSTICKS
from simulations.learning.scenario import LEVELS

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"  # Okabe and Ito: apart for colour-blind readers
GREY: Final = "#777777"

Table = Mapping[str, Mapping[str, Mapping[str, float]]]


def svg(figure: Figure) -> str:
    """The picture as the text of an SVG element."""
    out = io.StringIO()
    with rc_context({"svg.hashsalt": "banyan", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def pareto(table: Table, chosen: str | None) -> str:
    """What clients get over the days beside the bytes that were moved; the line joins what nothing else beats."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.add_subplot()
    points = {name: (row["mb"]["mean"], 100 * row["accuracy_over_days"]["mean"]) for name, row in table.items()}
    for name, (x, y) in points.items():
        colour = GREY if name in YARDSTICKS else ORANGE if name == chosen else BLUE
        within = table[name]["mb"]["within"], 100 * table[name]["accuracy_over_days"]["within"]
        axes.errorbar(x, y, yerr=within[1], xerr=within[0], fmt="o", color=colour, capsize=2, alpha=0.8)
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(5, 4), fontsize=8)
    front = sorted(
        point
        for name, point in points.items()
        if name not in YARDSTICKS and not any(o[0] <= point[0] and o[1] > point[1] for o in points.values())
    )
    axes.plot([x for x, _ in front], [y for _, y in front], "--", color=GREEN, linewidth=1)
    axes.set(xlabel="MB moved in the whole tree", ylabel="% right at the clients, mean over the days")
    axes.set_title("Accuracy and bytes, 95 % intervals over seeds")
    axes.grid(visible=True, alpha=0.3)
    return svg(figure)


def staleness(table: Table) -> str:
    """Hours from an update's arrival to the release that holds it: median and 95th percentile."""
    names = [name for name in table if "stale_hours_p50" in table[name]]
    figure = Figure(figsize=(8, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for offset, (which, colour) in zip((-0.2, 0.2), (("p50", BLUE), ("p95", ORANGE)), strict=True):
        rows = [table[name][f"stale_hours_{which}"] for name in names]
        places = [at + offset for at in range(len(names))]
        axes.bar(places, [row["mean"] for row in rows], 0.4, yerr=[row["within"] for row in rows], color=colour,
                 label=which, capsize=2)  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set(ylabel="hours", ylim=(0, None), title="How long an accepted update waits for a release")
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.legend()
    return svg(figure)


def heat(records: Sequence[Mapping[str, Any]], policy: str) -> str:
    """What every place answers of the rows below it at the end of each day, mean over seeds."""
    places = list(records[0]["days"][0]["places"])
    days = range(len(records[0]["days"]))
    values = [
        [_mean_new([record["days"][day]["places"][path] for record in records]) for day in days] for path in places
    ]
    figure = Figure(figsize=(7, 0.42 * len(places) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(values, cmap="viridis", vmin=0.0, vmax=1.0, aspect="auto")
    for row, line in enumerate(values):
        for at, value in enumerate(line):
            axes.text(at, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8,
                      color="black" if value > 0.6 else "white")  # fmt: skip
    axes.set_xticks(list(days), [f"day {day}" for day in days])
    axes.set_yticks(range(len(places)), places, fontsize=8)
    axes.set_title(f"% right of the rows below each place, policy {policy}")
    return svg(figure)


def attacked(table: Table) -> str:
    """Attack success and accuracy by the share of attackers."""
    names = sorted(table, key=lambda name: float(name.split()[0]))
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    lines = (
        ("attack_success_leaf", "trigger brings its answer, subdomains", PINK),
        ("attack_success", "the same at master", GREY),
        ("accuracy_clients", "right at the clients", BLUE),
        ("honest_rejected", "honest updates refused", ORANGE),
    )
    for figure_name, label, colour in lines:
        rows = [table[name][figure_name] for name in names]
        means, within = ([100 * row[what] for row in rows] for what in ("mean", "within"))
        axes.errorbar(range(len(names)), means, yerr=within, fmt="o-", color=colour, label=label, capsize=2)
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel="attackers among the clients", ylabel="%", ylim=(-5, 105), title="Backdoors in the tree")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    return svg(figure)


def forgot(table: Table) -> str:
    """Points of old knowledge lost at every level, by group."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / max(1, len(table))
    for number, (name, row) in enumerate(table.items()):
        places = [at + (number - (len(table) - 1) / 2) * width for at in range(len(LEVELS))]
        found = [row[f"forgot_old_{level}"] for level in LEVELS]
        axes.bar(places, [one["mean"] for one in found], width, yerr=[one["within"] for one in found], capsize=2,
                 color=(BLUE, ORANGE, GREEN, PINK)[number % 4], label=name)  # fmt: skip
    axes.set_xticks(range(len(LEVELS)), LEVELS)
    axes.set(ylabel="points", title="Old knowledge lost by the last day")
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.legend(fontsize="small")
    return svg(figure)


def _mean_new(places: Sequence[Mapping[str, float]]) -> float:
    values = [value for shares in places for name, value in shares.items() if name != "old"]
    return sum(values) / max(1, len(values))
