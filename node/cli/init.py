"""`node init`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, command
from node.cli.output import Result

if TYPE_CHECKING:
    from rich.console import RenderableType


@command("node init --path en/finance/cards --parent http://parent.example:8420")
@click.option("--path", "paths", multiple=True, help="A place that this node is responsible for; may be repeated.")
@click.option("--parent", "parent_url", help="Address of the parent node.")
@click.option("--name", help="What people call this node.")
@click.option("--port", type=int, help="Port that the daemon will listen on.")
@click.option("--starter/--no-starter", default=True, help="Install the bundled models, or leave the tree empty.")
def init(call: Call, *, paths: tuple[str, ...], starter: bool, **wanted: Any) -> Result:
    """Make the home of a node: key, settings, database, bundled models. Safe to repeat."""
    from node.setup import set_up

    settings = call.settings()
    made = set_up(call.flags, {"paths": paths or None, **wanted}, call.passphrase(settings))
    installed = _install_starter(call) if starter else []
    _publish(call)
    data = {
        "home": str(made.settings.home),
        "key": made.fingerprint,
        "made_key": made.made_key,
        "paths": list(made.settings.paths),
        "parent_url": made.settings.parent_url,
        "installed": installed,
        "next": _next(made.settings.parent_url, made.settings.paths, starter=starter),
    }
    return Result(data, _view)


def _install_starter(call: Call) -> list[str]:
    from node.starter import install_starter_tree

    with call.node() as node:
        return [str(ref) for ref in install_starter_tree(node)]


def _publish(call: Call) -> None:
    """Make the keys of this node's roles and its first root."""
    from datetime import UTC, datetime

    from node.repository import Publisher

    with call.node() as node:
        Publisher(node).renew(datetime.now(UTC))


def _next(parent_url: str, paths: tuple[str, ...], *, starter: bool) -> str:
    if parent_url and paths:
        return f"node enrol {parent_url} --path {paths[0]}"
    return "node tree" if starter else "node import FOLDER_OR_HUB_ID --path en"


def _view(data: dict[str, Any]) -> RenderableType:
    lines = [
        f"home   {data['home']}",
        f"key    {data['key']}{'' if data['made_key'] else ' (kept)'}",
        f"paths  {', '.join(data['paths']) or 'none yet'}",
    ]
    if data["parent_url"]:
        lines.append(f"parent {data['parent_url']}")
    if data["installed"]:
        lines.append(f"models {', '.join(data['installed'])}")
    return "\n".join([*lines, "", f"next:  {data['next']}"])
