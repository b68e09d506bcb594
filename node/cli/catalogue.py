"""`node catalogue`: models of others that are recommended and not served here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, DefaultGroup, command
from node.cli.output import Result

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.group(cls=DefaultGroup, default="show", epilog="\b\nExample:\n  node catalogue add models.csv")
def catalogue() -> None:
    """Tell this node of models of others, so that they are recommended too; none of them is served."""


@command("node catalogue add models.csv", offline=False)
@click.argument("source", metavar="TABLE|FOLDER|HUB_ID")
@click.option("--revision", help="Branch, tag or commit of the Hub repository; main if not given.")
@click.option("--name", default="", help="Name of the model of a folder or repository.")
@click.option("--licence", help="SPDX identifier, where the model's own card does not say it.")
def add(call: Call, source: str, *, revision: str | None, name: str, licence: str | None) -> Result:
    """Add models from a table (CSV or JSON), a model's folder, or a repository of the Hub.

    Of a folder or repository the configuration and the card are read, and no code or weights. Columns of a table:
    model, kind, parameters_b, active_b, context_tokens, memory_gb, license, languages, tasks, domains, subdomains,
    released, weights, price_usd_per_mtok; for scores also score (0 to 100), benchmark, task, rows, half_width, source,
    score_license.
    """
    from datetime import UTC, datetime

    if Path(source).expanduser().exists():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from node.known_models import add_known

    with call.node() as node:
        told = add_known(node, source, datetime.now(UTC), revision=revision, name=name, licence=licence)
    return Result({"source": told.source, "models": sorted(told.candidates), "scores": len(told.scores)}, _added)


@command("node catalogue show --json")
def show(call: Call) -> Result:
    """Show the models that were added, and where each is from."""
    from node.known_models import sources_of

    with call.node() as node:
        rows = [{"model": model, "source": source, "added": added} for model, source, added in sources_of(node)]
    return Result({"models": rows}, _listed)


@command("node catalogue remove owner/model")
@click.argument("model")
def remove(call: Call, model: str) -> Result:
    """Forget a model that was added, and its scores."""
    from node.known_models import forget_known

    with call.node() as node:
        forget_known(node, model)
    return Result({"removed": model}, lambda data: f"removed: {data['removed']}")


for one in (add, show, remove):
    catalogue.add_command(one)


def _added(data: dict[str, Any]) -> RenderableType:
    count, scores = len(data["models"]), data["scores"]
    named = ", ".join(data["models"][:5]) + (", ..." if count > 5 else "")
    return f"added from {data['source']}: {count} model{'' if count == 1 else 's'} ({named}), {scores} scores"


def _listed(data: dict[str, Any]) -> RenderableType:
    from rich.table import Table

    if not data["models"]:
        return "none was added\nnext:  node catalogue add models.csv"
    table = Table("model", "source", "added", box=None, header_style="bold")
    for row in data["models"]:
        table.add_row(row["model"], row["source"], f"{row['added']:%Y-%m-%d}")
    return table
