"""`node simulate scale`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, command
from node.cli.output import Result

if TYPE_CHECKING:
    from rich.console import RenderableType

EVENTS_OF_A_NODE = 6  # about: two on the way down, four on the way up


@command("node simulate scale --nodes 1000000 --fan-out 16")
@click.option("--nodes", type=int, default=100_000, show_default=True, help="Nodes of the tree; of --grid the most.")
@click.option("--fan-out", type=int, default=16, show_default=True, help="Children of a node.")
@click.option("--policy", default="every-n", show_default=True, help="When parents merge: one that needs no training.")
@click.option("--every", type=int, default=8, show_default=True, help="Updates or senders that the policy waits for.")
@click.option("--failing", type=float, default=0.0, show_default=True, help="Share of contacts that fail, 0 to 1.")
@click.option("--caching", is_flag=True, help="Siblings hand on files, which nodes of this version do not do.")
@click.option("--window-s", type=float, default=3600.0, show_default=True, help="In which every leaf offers once.")
@click.option("--costs", "file", type=click.Path(path_type=Path, dir_okay=False), help="Measured costs of the steps.")
@click.option("--seed", type=int, default=1, show_default=True, help="Same seed, same figures.")
@click.option("--grid", is_flag=True, help="Many trees: by size, fan-out, failures, with and without caching.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the figures and picture of --grid."
)
def scale(call: Call, *, file: Path | None, grid: bool, out: Path | None, **given: Any) -> Result:
    """How long news takes in large trees, and what it costs: one release down, one update of every leaf up.

    Nothing is trained: steps cost what they were measured to cost on real nodes.
    """
    from simulations.scale.conditions import Conditions
    from simulations.scale.costs import MEASURED, read_costs
    from simulations.scale.shape import Shape
    from simulations.scale.study import Cell, play

    if grid and out is None:
        raise click.UsageError("--grid needs --out, a folder for its figures")
    names = ("policy", "every", "failing", "caching", "window_s")
    conditions = Conditions(**{name: given[name] for name in names})
    costs = read_costs(file or MEASURED)
    if grid and out is not None:
        return _grid(call, conditions, costs, given["seed"], given["nodes"], out)
    cell = Cell(Shape(given["nodes"], given["fan_out"]), conditions, given["seed"])
    total = given["nodes"] * EVENTS_OF_A_NODE
    with call.output.progress("Simulating", unit="events") as bar:
        found = play(cell, costs, lambda what, events: bar(events, total, what))
    return Result(found, _view)


def _grid(call: Call, usual: Any, costs: Any, seed: int, largest: int, out: Path) -> Result:
    from datetime import UTC, datetime

    from registry.durable import make_folder
    from registry.trust.files import write_whole
    from simulations.faults import machine
    from simulations.scale.grid import cells, played
    from simulations.scale.pictures import draw

    make_folder(out)
    wanted = cells(usual, seed, largest)
    about = {"date": datetime.now(UTC).date().isoformat(), "machine": machine()}
    with call.output.progress("Simulating", unit="trees") as bar:
        found = played(
            wanted, costs, out / "scale.json", about, lambda number, what, events: bar(number, len(wanted), what)
        )
    write_whole(out / "scale.svg", draw(found).encode())
    return Result({"cells": found, "files": [str(out / "scale.json"), str(out / "scale.svg")]}, _table)


def _view(found: dict[str, Any]) -> RenderableType:
    from rich.table import Table

    down, up = found["down"], found["up"]
    table = Table(f"{found['nodes']:,} nodes, {found['levels']} levels", "median", "95 %", "most", box=None)
    for name, figures in (
        ("root's release at a node, s", down["arrived_s"]),
        ("bytes out of a node, one release", down["bytes_from_one_node"]),
        ("leaf's update in a release of the root, s", up["leaf_to_root_s"]),
        ("bytes into a node, all updates", up["bytes_up_into_one_node"]),
        ("updates that wait in an inbox", up["deepest_inbox"]),
    ):
        table.add_row(name, *(f"{figures[key]:,.6g}" if figures else "-" for key in ("p50", "p95", "max")))
    table.add_row("releases", f"{up['releases']:,}", "", "")
    table.add_row("sent away by a full inbox", f"{up['busy_answers']:,}", "", "")
    table.add_row("core hours, down and up", f"{down['core_hours']:,.4g}", f"{up['core_hours']:,.4g}", "")
    took = found["took"]
    table.add_row("simulated in s, with MB", f"{took['seconds']:,.4g}", f"{took['peak_mb']:,.5g}", "")
    return table


def _table(found: dict[str, Any]) -> RenderableType:
    from rich.table import Table

    names = ("nodes", "fan-out", "failing", "siblings", "down p95 s", "up p95 s", "inbox", "busy", "took s", "MB")
    table = Table(*names, box=None, header_style="bold")
    for cell in found["cells"]:
        down, up, held = cell["down"]["arrived_s"], cell["up"]["leaf_to_root_s"], cell["conditions"]
        figures = (cell["up"]["deepest_inbox"]["max"], cell["up"]["busy_answers"], *cell["took"].values())
        row = (cell["nodes"], cell["fan_out"], held["failing"], "yes" if held["caching"] else "")
        times = (f"{down['p95']:,.4g}", f"{up['p95']:,.5g}" if up else "-")
        table.add_row(*map(str, row), *times, *(f"{figures[at]:,.5g}" for at in (0, 1, 2, 4)))
    return table
