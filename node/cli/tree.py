"""`node tree` and `node show`: what this node has."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, command
from node.cli.output import Result, plain_text

if TYPE_CHECKING:
    from rich.console import RenderableType


@command("node tree en/finance")
@click.argument("path", default="master")
def tree(call: Call, path: str) -> Result:
    """Show the tree of paths with their versions, bases and adapters."""
    from datetime import UTC, datetime

    from node.tree import list_tree
    from registry.paths import NodePath

    under = NodePath.parse(path)
    with call.node() as node:
        places = list_tree(node, under, datetime.now(UTC))
    return Result({"path": path, "places": [asdict(place) for place in places]}, _tree)


@command("node show en/finance@v2 --json")
@click.argument("ref", metavar="PATH[@VERSION]")
@click.option("--card", is_flag=True, help="Print the model card instead of the facts.")
def show(call: Call, ref: str, *, card: bool) -> Result:
    """Show one release in full: digest, signer, what it is the sum of, figures, card, expiry."""
    from datetime import UTC, datetime

    from node.tree import describe
    from registry.paths import Ref

    asked = Ref.parse(ref)
    with call.node() as node:
        found = describe(node, asked, datetime.now(UTC))
    return Result(found, _card if card else _facts)


def _tree(data: dict[str, Any]) -> RenderableType:
    from rich.tree import Tree

    if not data["places"]:
        return f"no model at {data['path']} or below\nnext:  node init, or: node import FOLDER_OR_HUB_ID --path en"
    root = Tree(data["path"], guide_style="dim", hide_root=True)
    branches: dict[str, Tree] = {}
    for place in data["places"]:
        path = place["path"]
        near = [name for name in branches if name == "master" or path.startswith(f"{name}/")]
        above = branches[max(near, key=lambda name: -1 if name == "master" else len(name))] if near else root
        branches[path] = above.add(_leaf(place))
    return root


def _leaf(place: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    size = f", adapter of rank {place['adapter_rank']}" if place["adapter_rank"] else ""
    leaf = Text.assemble((place["path"], "bold"), f" v{place['version']}", (f"  {place['base_name']}{size}", "dim"))
    if place["expired"]:
        leaf.append("  expired", "red")
    if not place["own"]:
        leaf.append("  from a peer", "dim")
    return leaf


def _card(data: dict[str, Any]) -> RenderableType:
    return plain_text(data["card_text"])


def _facts(data: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    facts = Table.grid(padding=(0, 2))
    signer = data["signer"]
    adapter = data["adapter"]
    rows = {
        "release": f"{data['path']}@v{data['version']}" + ("" if data["served"] else " (not the one that is served)"),
        "digest": data["digest"],
        "signer": f"{signer['fingerprint']}{' (this node)' if signer['own'] else ''}",
        "base": f"{data['base_name']} ({data['base']})",
        "adapter": f"rank {adapter['shape']['rank']}, {adapter['file']['size']:,} bytes" if adapter else "none",
        "sum of": " + ".join(part["release"] for part in data["sum_of"]),
        "licence": data["base_manifest"]["licence"],
        "created": data["created"],
        "expires": data["expires"] + (" (expired)" if data["expired"] else ""),
        "updates in it": str(len(data["contributions"])),
        "missing": ", ".join(data["missing"]),
    }
    for name, value in rows.items():
        if value:
            facts.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
    return Group(facts, *_figures(data["evaluations"]))


def _figures(evaluations: list[dict[str, Any]]) -> list[RenderableType]:
    from rich.table import Table

    if not evaluations:
        return []
    names = [name for one in evaluations for name in one["metrics"] if not name.endswith("_before")]
    names = list(dict.fromkeys(names))
    table = Table("data set", "split", "path", "rows", *names, box=None, header_style="bold")
    for one in evaluations:
        values = [_figure(one["metrics"], name) for name in names]
        table.add_row(one["dataset"], one["split"], one["path"], str(one["rows"]), *values)
    return ["", table]


def _figure(metrics: dict[str, float], name: str) -> str:
    """One figure, with what it was before where that is known."""
    if name not in metrics:
        return ""
    before = metrics.get(f"{name}_before")
    return f"{metrics[name]:.4g}" if before is None else f"{before:.4g} -> {metrics[name]:.4g}"
