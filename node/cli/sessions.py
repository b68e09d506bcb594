"""`node sessions`: conversations that are remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, DefaultGroup, command
from node.cli.output import Result

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.group(cls=DefaultGroup, default="list", epilog="\b\nExample:\n  node sessions delete letters")
def sessions() -> None:
    """List the conversations that this node remembers for you, or forget one."""


@command("node sessions list --json")
def list_(call: Call) -> Result:
    """List conversations, the latest first."""
    from node.sessions import sessions as listed

    with call.node() as node:
        found = listed(node.store, "")
    return Result({"sessions": [one.model_dump(mode="json") for one in found]}, _table)


@command("node sessions delete letters")
@click.argument("name")
def delete(call: Call, name: str) -> Result:
    """Forget a conversation."""
    from node.sessions import forget_session

    with call.node() as node:
        gone = forget_session(node.store, "", name)
    return Result(gone.model_dump(mode="json"), lambda data: f"forgotten: {data['name']}")


for one in (list_, delete):
    sessions.add_command(one)


def _table(data: dict[str, Any]) -> RenderableType:
    from rich.table import Table

    if not data["sessions"]:
        return "no conversations\nnext:  node chat --session NAME"
    table = Table("name", "turns", "model", "last", box=None, header_style="bold")
    for one in data["sessions"]:
        table.add_row(one["name"], str(one["turns"]), one["model"] or "", one["changed"])
    return table
