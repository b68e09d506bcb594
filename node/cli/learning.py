"""`node simulate policies|forgetting|attacks`: trees that learn, played from their first day to their last."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, command
from node.cli.output import Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from simulations.learning.scenario import Scenario
    from simulations.learning.studies import Study


def _shared(function: Callable[..., Result]) -> Callable[..., Result]:
    """The options of every study."""
    for option in reversed(
        (
            click.option("--data", type=click.Path(path_type=Path, file_okay=False), required=True,
                         help="Folder with SET/SET.train.jsonl, the rows of the tree."),
            click.option("--work", type=click.Path(path_type=Path, file_okay=False), required=True,
                         help="Folder for adapters and cells; a run that was stopped goes on there."),
            click.option("--base", type=click.Choice(["tiny", "bundled"]), default="tiny", show_default=True,
                         help="What is trained: a base of 0.4 M parameters, or the bundled one."),
            click.option("--leaf", "leaves", multiple=True, metavar="PATH",
                         help="A subdomain with clients, such as en/finance/cards; several times."),
            click.option("--clients", type=int, default=3, show_default=True, help="That learn, at each subdomain."),
            click.option("--days", type=int, default=4, show_default=True, help="Simulated days."),
            click.option("--seeds", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many seeds."),
            click.option("--aggregation", default="mean", show_default=True, help="The rule that parents merge by."),
            click.option("--aggregation-f", type=click.IntRange(0), default=0, show_default=True,
                         help="How many of the updates in a release may lie."),
            click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes."),
            click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write a page of HTML."),
            click.option("--out", type=click.Path(path_type=Path, file_okay=False),
                         help="Write the findings as JSON and the pictures as SVG into this folder."),
        )
    ):  # fmt: skip
        function = option(function)
    return function


@command("node simulate policies --data DATA/tree --work WORK --workers 2 --report report.html")
@click.option(
    "--policy", "names", multiple=True, metavar="NAME", help="A policy to play; several times. Default: eleven."
)
@click.option("--attackers/--no-attackers", default=True, help="Also play the default policy under attack.")
@_shared
def policies(call: Call, names: tuple[str, ...], *, attackers: bool, **given: Any) -> Result:
    """When to update a parent: policies and an oracle under the same rows, and the default policy under attack."""
    from simulations.learning.scenario import known_policies

    chosen = known_policies(names)  # before anything slow is imported
    from simulations.learning.studies import GRID, SHARES
    from simulations.learning.studies import policies as study

    shares = SHARES if attackers else ()
    return _play(call, study(list(dict.fromkeys(chosen or GRID)), given["seeds"], shares), **given)


@command("node simulate forgetting --data DATA/tree --work WORK")
@_shared
def forgetting(call: Call, **given: Any) -> Result:
    """What the gate keeps: the same tree with it and without it."""
    from simulations.learning.studies import forgetting as study

    return _play(call, study(given["seeds"]), **given)


@command("node simulate attacks --data DATA/tree --work WORK --seeds 3")
@_shared
def attacks(call: Call, **given: Any) -> Result:
    """What every attack of the library does to a tree in which a third of the clients lie."""
    from simulations.learning.studies import attacks as study

    return _play(call, study(given["seeds"]), **given)


def _play(call: Call, study: Study, **given: Any) -> Result:
    """Play a study's cells and tell what was found."""
    from node.starter import BUNDLED
    from simulations.faults import machine
    from simulations.learning.grid import play_all
    from simulations.learning.playing import Sources
    from simulations.learning.studies import told

    scenario = _scenario(given)
    sources = Sources(given["data"], BUNDLED, given["work"])
    with call.output.progress(f"simulating {study.name}") as on_progress:

        def on_cell(done: int, total: int, which: str) -> None:
            on_progress(done, total, which)
            if not call.output.draws and not call.output.as_json:
                call.output.note(f"{done} of {total} cells: {which}")

        played = play_all(scenario, sources, study.cells, given["workers"], on_cell)
    found = told(study, scenario, played, {"processor": machine()})
    _write(given, found, played)
    return Result(found, _view)


def _scenario(given: dict[str, Any]) -> Scenario:
    from simulations.learning.scenario import SMALL, Scenario

    return Scenario(
        base=given["base"],
        leaves=given["leaves"] or SMALL,
        clients=given["clients"],
        days=given["days"],
        names=given["base"] == "tiny",
        labels=4 if given["base"] == "tiny" else 10_000,
        aggregation=given["aggregation"],
        aggregation_f=given["aggregation_f"],
    )


def _write(given: dict[str, Any], found: dict[str, Any], played: Any) -> None:
    """The page and the files that were asked for."""
    import sys

    from node.cli.output import as_json_text
    from registry.durable import make_folder
    from registry.trust.files import write_whole
    from simulations.learning.report import page, pictures

    if given["report"] is not None:
        make_folder(given["report"].parent)
        places = {str(given[name]): name.upper() for name in ("data", "work", "out", "report")}
        words = [places.get(word, word) for word in sys.argv[1:]]  # the page goes to people who have other folders
        write_whole(given["report"], page(found, played, " ".join(["node", *words])).encode())
    if given["out"] is not None:
        make_folder(given["out"])
        write_whole(given["out"] / f"{found['study']}.json", as_json_text(found).encode() + b"\n")
        for name, text in pictures(found, played):
            write_whole(given["out"] / f"{name}.svg", text.encode())


COLUMNS = {
    "accuracy_over_days": ("right at clients %", 100.0),
    "worst_leaf": ("worst client %", 100.0),
    "mb": ("MB", 1.0),
    "releases": ("releases", 1.0),
    "stale_hours_p95": ("wait p95 h", 1.0),
    "regret": ("regret points", 1.0),
    "forgot_old_subdomain": ("old lost, subdomain", 1.0),
    "honest_rejected": ("honest refused %", 100.0),
    "attackers_released": ("lies released %", 100.0),
    "attack_success_leaf": ("trigger works %", 100.0),
}


def _view(found: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    parts: list[RenderableType] = []
    for title in ("policies", "gate", "attacks", "attackers"):
        rows = found.get(title)
        if not rows:
            continue
        names = [name for name in COLUMNS if any(name in row for row in rows.values())]
        table = Table(title, *(COLUMNS[name][0] for name in names), box=None, header_style="bold")
        for label, row in rows.items():
            table.add_row(label, *(_figure(row.get(name), COLUMNS[name][1]) for name in names))
        parts.append(table)
    if "recommended" in found:
        parts.append(f"recommended: {found['recommended']['policy']}: {found['recommended']['reason']}")
    return Group(*parts)


def _figure(value: dict[str, float] | None, by: float) -> str:
    return "" if value is None else f"{by * value['mean']:.1f} ± {by * value['within']:.1f}"
