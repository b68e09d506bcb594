"""`node rate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, command
from node.cli.output import Result

if TYPE_CHECKING:
    from rich.console import RenderableType


@command("node rate en/finance 4 --why 'knows our cards, slow with transfers'")
@click.argument("model")
@click.argument("rating", type=click.IntRange(1, 5))
@click.option("--why", default="", help="In your words; they stay on this node.")
def rate(call: Call, model: str, rating: int, *, why: str) -> Result:
    """Say how well a model serves you, from 1 (useless) to 5 (just right); saying it again replaces it.

    MODEL is named as node recommend names it. A rating moves the order of answers a little, and breaks no rule.
    """
    from datetime import UTC, datetime

    from node.feedback import THIS_MACHINE
    from node.feedback import rate as keep

    with call.node() as node:
        keep(node, model, rating, why, voice=THIS_MACHINE, now=datetime.now(UTC))
    return Result({"model": model, "rating": rating, "why": why}, _view)


def _view(data: dict[str, Any]) -> RenderableType:
    return f"kept: {data['model']} {data['rating']} of 5"
