"""`node evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, command
from node.cli.output import Result

if TYPE_CHECKING:
    from rich.console import RenderableType

PERCENT = ("exact_match", "name_accuracy")


@command("node evaluate en/finance@v2 --data rows.jsonl --json")
@click.argument("ref", metavar="PATH[@VERSION]")
@click.option(
    "--data", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Rows with input and output."
)
@click.option("--threads", type=int, help="CPU threads; 0 for all cores.")
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), help="Arithmetic of the model.")
def evaluate(call: Call, ref: str, *, data: Path, threads: int | None, precision: str | None) -> Result:
    """Measure a model on rows: exact match, names right, perplexity, bits per byte, seconds.

    Outputs that are JSON are compared as JSON; names are the tool or intent that an output names.
    """
    from registry.paths import Ref

    asked = Ref.parse(ref)
    with call.node(threads=threads, precision=precision) as node:
        from node.evaluate import evaluate as measure

        with call.output.progress("Evaluating") as on_progress:
            figures = measure(node, asked, data, on_progress)
    return Result(figures, _view)


def _view(data: dict[str, Any]) -> RenderableType:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in data.items():
        if name in PERCENT and value is not None:
            shown = f"{value:.2%}"
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), shown)
    return table
