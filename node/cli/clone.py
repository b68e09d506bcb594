"""`node clone`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, command
from node.cli.output import Result

if TYPE_CHECKING:
    from rich.console import RenderableType


@command("node clone en/finance@v2 --out finance-adapter")
@click.argument("ref", metavar="PATH[@VERSION]")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="A new or empty folder; named if not given."
)
@click.option("--from", "source", help="Address of the node to clone from; the parent if not given.")
def clone(call: Call, ref: str, *, out: Path | None, source: str | None) -> Result:
    """Fetch a model of the tree, verify it, and write it as a folder that PEFT loads.

    A clone that was interrupted goes on where it was.
    """
    from datetime import UTC, datetime

    from node.clone import clone as fetch
    from registry.paths import Ref

    asked = Ref.parse(ref)
    with call.node() as node, call.output.progress("Cloning", unit="bytes") as bar:
        done = fetch(
            node,
            asked,
            out.expanduser() if out else None,
            lambda progress: bar(progress.done, progress.total, progress.file),
            now=datetime.now(UTC),
            source=source,
        )
    data = {
        "release": str(done.ref),
        "digest": done.release,
        "source": done.source,
        "folder": done.folder,
        "base_folder": done.base_folder,
        "files": list(done.files),
        "moved_bytes": done.moved_bytes,
        "new": done.new,
    }
    return Result(data, _view)


def _view(data: dict[str, Any]) -> RenderableType:
    word = "cloned" if data["new"] else "unchanged"
    return "\n".join(
        [
            f"{word}: {data['release']} from {data['source'] or 'this node'}, {data['moved_bytes']:,} bytes moved",
            f"adapter  {data['folder']}",
            f"base     {data['base_folder']}",
            f"next:  node finetune {data['release'].partition('@')[0]} --data FILE",
        ]
    )
