"""`node export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, command
from node.cli.output import Result

if TYPE_CHECKING:
    from rich.console import RenderableType

    from node.export import DType, Form


@command("node export en/finance --to finance-model --format merged")
@click.argument("ref", metavar="PATH[@VERSION]")
@click.option("--to", required=True, type=click.Path(path_type=Path, file_okay=False), help="A new or empty folder.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["merged", "adapter", "gguf"]),
    default="merged",
    show_default=True,
    help="All weights for transformers, one adapter for PEFT, or GGUF with a Modelfile for llama.cpp and Ollama.",
)
@click.option("--adapter-only", is_flag=True, help="With --format gguf: the adapter alone, over the base's own GGUF.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Type of merged weights; auto keeps the base's.",
)
def export(call: Call, ref: str, *, to: Path, form: Form, adapter_only: bool, dtype: DType) -> Result:
    """Write a model as a folder that transformers, PEFT, llama.cpp or Ollama loads."""
    from node.export import export_model
    from registry.paths import Ref

    if adapter_only and form != "gguf":
        raise click.UsageError("--adapter-only is for --format gguf; for PEFT it is --format adapter")
    if adapter_only:
        form = "gguf-adapter"
    if form.endswith("adapter") and dtype != "auto":
        raise click.UsageError("--dtype is for merged weights; an adapter is always fp32")
    asked = Ref.parse(ref)
    with call.node() as node:
        done = export_model(node, asked, to.expanduser().absolute(), form, dtype)
    data = {
        "folder": done.folder,
        "format": done.form,
        "release": done.release,
        "files": list(done.files),
        "bytes": done.size_bytes,
    }
    return Result(data, _view)


def _view(data: dict[str, Any]) -> RenderableType:
    return f"{data['folder']}: {data['bytes']:,} bytes in {', '.join(data['files'])}"
