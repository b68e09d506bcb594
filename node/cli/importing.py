"""`node import`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, command
from node.cli.output import Result

if TYPE_CHECKING:
    from rich.console import RenderableType


@command("node import HuggingFaceTB/SmolLM2-135M-Instruct --path en", offline=False)
@click.argument("source", metavar="FOLDER|HUB_ID")
@click.option("--path", required=True, help="The place in the tree that the model will serve.")
@click.option("--revision", help="Branch, tag or commit of the Hub repository; main if not given.")
@click.option("--licence", help="SPDX identifier, where the model's own card does not say it.")
@click.option("--name", help="Name of the base; the Hub id or the folder's name if not given.")
def import_(
    call: Call, source: str, path: str, *, revision: str | None, licence: str | None, name: str | None
) -> Result:
    """Take in any Hugging Face causal language model, from a folder or from the Hub.

    Only safetensors, tokenizer and configuration are read; models that bring code or pickle files are refused.
    """
    from dataclasses import replace
    from datetime import UTC, datetime

    if Path(source).expanduser().is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from node.hub import locate
    from node.importing import UNKNOWN_LICENCE, import_model
    from registry.paths import NodePath

    place = NodePath.parse(path)
    with call.node() as node:
        found = locate(source, revision, node.settings.request_timeout_s)
        if name:
            found = replace(found, name=name)
        with call.output.progress("Storing", unit="bytes") as on_progress:
            done = import_model(node, found, place, datetime.now(UTC), licence=licence, on_progress=on_progress)
    if licence is None and (done.folder.card is None or done.folder.card.licence is None):
        call.output.note(f"the model does not say its licence; {UNKNOWN_LICENCE} was written (--licence SPDX)")
    data = {
        "release": f"{done.release.path}@v{done.release.version}",
        "digest": done.digest,
        "new": done.new,
        "base": done.release.base,
        "base_name": done.release.base_name,
        "family": done.folder.family,
        "architecture": done.folder.architecture,
        "parameters": done.folder.parameters,
        "source": {"hub_id": found.hub_id, "commit": found.commit},
        "files": [file.name for file in done.folder.files],
        "left_out": list(done.folder.left_out),
        "next": f"node generate {done.release.path} 'Hello'",
    }
    return Result(data, _view)


def _view(data: dict[str, Any]) -> RenderableType:
    word = "imported" if data["new"] else "already served"
    lines = [
        f"{word}: {data['base_name']} as {data['release']}",
        f"{data['architecture']}, {data['parameters']:,} parameters, base {data['base']}",
    ]
    if data["left_out"]:
        lines.append(f"left out: {', '.join(data['left_out'])}")
    return "\n".join([*lines, f"next:  {data['next']}"])
