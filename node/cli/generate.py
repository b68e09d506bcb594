"""`node generate`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, command
from node.cli.output import Result, plain_text
from registry.errors import BadData

if TYPE_CHECKING:
    from rich.console import RenderableType

MAX_TEXT_CHARS = 1 << 20


@command("node generate en/finance 'what is my balance?'")
@click.argument("ref", metavar="PATH[@VERSION]")
@click.argument("text", required=False)
@click.option("--task", default="", help="The task as the training rows name it, such as intent.")
@click.option("--max-new-tokens", type=click.IntRange(1, 100_000), default=256, show_default=True, help="Length limit.")
@click.option("--threads", type=int, help="CPU threads; 0 for all cores.")
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), help="Arithmetic of the model.")
def generate(
    call: Call,
    ref: str,
    text: str | None,
    *,
    task: str,
    max_new_tokens: int,
    threads: int | None,
    precision: str | None,
) -> Result:
    """Answer one request with the model of a path. Without TEXT, the request is read from stdin."""
    from registry.paths import Ref

    asked = Ref.parse(ref)
    request = _from_stdin() if text in (None, "-") else text
    with call.node(threads=threads, precision=precision) as node:
        from node.generate import generate as answer

        return Result(answer(node, asked, request or "", task, max_new_tokens), _view)


def _from_stdin() -> str:
    if sys.stdin.isatty():
        raise click.UsageError("give the request as TEXT, or on stdin")
    text = sys.stdin.read(MAX_TEXT_CHARS + 1)
    if len(text) > MAX_TEXT_CHARS:
        raise BadData(f"the request is longer than {MAX_TEXT_CHARS:,} characters", "give a shorter one")
    return text.strip()


def _view(data: dict[str, Any]) -> RenderableType:
    return plain_text(data["output"])
