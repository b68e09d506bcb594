"""`node release`: decisions about this node's own releases."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, command
from node.cli.output import Result, plain_text

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.group(epilog="\b\nExample:\n  node release rollback en/finance --why 'wrong answers about fees'")
def release() -> None:
    """Decide about releases that this node made."""


@command("node release rollback en/finance --to 3 --why 'wrong answers about fees'")
@click.argument("path")
@click.option("--to", "version", type=click.IntRange(1), help="Version to go back to; by default the one before.")
@click.option("--why", required=True, help="Why; it stands in the card, and the senders of what is undone can read it.")
def rollback(call: Call, path: str, *, version: int | None, why: str) -> Result:
    """Go back to an older version of PATH: a new release with its content, which children pull like any other."""
    from datetime import UTC, datetime

    from node.rollback import roll_back
    from registry.paths import NodePath

    with call.node() as node:
        return Result(asdict(roll_back(node, NodePath.parse(path), version, why, datetime.now(UTC))), _view)


@command("node release candidates --json")
def candidates(call: Call) -> Result:
    """List the candidates that the gate refused, the latest first: every try with its checks, and where it is kept."""
    from sync.refused import refused

    with call.node() as node:
        found = refused(node.home.refused)
    return Result(
        {"candidates": [{"folder": str(folder), **one.model_dump(mode="json")} for folder, one in found]}, _candidates
    )


release.add_command(rollback)
release.add_command(candidates)


def _candidates(data: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    if not data["candidates"]:
        return "the gate has refused no candidate"
    parts: list[RenderableType] = []
    for one in data["candidates"]:
        title = f"{one['path']} v{one['version']}, not released on {one['created']}: {one['folder']}"
        parts.append(Text(title, style="bold"))
        table = Table("merged by", "λ", "", "check", "value", "threshold", "reason", box=None, header_style="bold")
        for number, tried in enumerate(one["tries"]):
            for check in tried["checks"]:
                mark = Text("ok", style="green") if check["passed"] else Text("FAILED", style="red")
                figures = [f"{check[name]:.4g}" if check[name] is not None else "" for name in ("value", "threshold")]
                reason = Text(plain_text(check["reason"]) if number == 0 else "")
                table.add_row(tried["start"], f"{tried['part']:.3g}", mark, check["name"], *figures, reason)
        parts.append(table)
    return Group(*parts)


def _view(data: dict[str, Any]) -> RenderableType:
    versions = ", ".join(f"v{version}" for version in data["undone"])
    lines = [f"{data['path']} v{data['version']} is v{data['content_of']} again; undone: {versions}"]
    if data["updates"]:
        lines.append(f"{len(data['updates'])} updates are undone; their senders are told why")
    return "\n".join(lines)
