"""`node pull`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, command
from node.cli.output import DONE, REFUSED, Result, plain_text

if TYPE_CHECKING:
    from rich.console import RenderableType


@command("node pull en/finance")
@click.argument("path", required=False)
@click.option("--rebase/--no-rebase", default=True, help="Also decide what a new release means for own releases.")
def pull(call: Call, path: str | None, *, rebase: bool) -> Result:
    """Fetch and verify the parent's newest releases: of PATH, or of every place at or above this node's.

    An own release below a new one is rebased: adopted, preserved or left as it is, whatever measures best here.
    """
    from datetime import UTC, datetime

    from node.outdated import outdated
    from node.pull import pull as fetch
    from registry.paths import NodePath

    place = NodePath.parse(path) if path else None
    now = datetime.now(UTC)
    with call.node() as node:
        with call.output.progress("Pulling", unit="bytes") as bar:
            done = fetch(node, place, now, lambda progress: bar(progress.done, progress.total, progress.file))
        rebased = []
        if rebase and outdated(node):
            from node.rebasing import rebase_all

            with call.output.progress("Rebasing") as bar:
                rebased = rebase_all(node, now, lambda report: bar(report.step, report.total_steps))
    data = {"pulled": [asdict(one) for one in done], "rebased": [asdict(one) for one in rebased]}
    return Result(data, _view, REFUSED if any(one.held for one in done) else DONE)


def _view(data: dict[str, Any]) -> RenderableType:
    if not data["pulled"]:
        return "the parent serves nothing at or above this node's places"
    lines = []
    for one in data["pulled"]:
        if one["held"]:
            lines.append(f"{one['path']}: v{one['version']} is held back, {plain_text(one['held'])}")
            continue
        before = f"v{one['before']} -> " if one["new"] and one["before"] else ""
        lines.append(f"{one['path']}: {before}v{one['version']}{'' if one['new'] else ' (unchanged)'}")
    lines += [
        f"{one['path']}: {one['way']} over the parent's v{one['above']}, now v{one['version']}"
        for one in data["rebased"]
    ]
    return "\n".join(lines)
