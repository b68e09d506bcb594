"""`node chat`: find a model in a conversation, and clone it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.group import Call, command
from node.cli.output import Result, plain_text
from registry.errors import BadData, BanyanError

if TYPE_CHECKING:
    from assistant.state import Action
    from node.context import Node
    from recommender.advisor import Advisor

MAX_LINE_CHARS: Final = 20_000
GREETING: Final = "What do you need a model for? Say it in your own words. An empty line ends the conversation."


@command("node chat")
@click.option("--machine", default="", metavar="NAME", help="Another machine than this one, such as 'RTX 3060 12 GB'.")
@click.option("--tree", "tree_only", is_flag=True, help="Only models that this node has, none of the shipped tables.")
def chat(call: Call, *, machine: str, tree_only: bool) -> Result:
    """Find a model in a conversation: it asks what would change the answer, explains, and clones after a plain yes.

    What the user says is read from the terminal, or line by line from stdin.
    """
    from datetime import UTC, datetime

    from assistant.dialogue import step
    from assistant.extract import extract
    from assistant.state import State
    from node.recommending import Shelf
    from recommender.hardware import described_machine, this_machine

    where = described_machine(machine) if machine else this_machine()
    replies: list[dict[str, Any]] = []
    state = State()
    with call.node() as node:
        advisor = Shelf(node).advisor(where, datetime.now(UTC), tree_only=tree_only)
        for text in _said(call):
            state, reply = step(state, text, advisor, extract)
            done = _act(call, node, advisor, reply.action) if reply.action is not None else {}
            replies.append(
                {"said": text, "reply": reply.text, "question": reply.question or None, "done": done or None}
            )
            if not call.output.as_json:
                click.echo(plain_text("\n".join([reply.text, *(f"{name}: {value}" for name, value in done.items())])))
    need = {slot: stated.value for slot, stated in state.need.stated()}
    return Result({"replies": replies, "need": need, "model": state.current or None}, lambda _: "")


def _said(call: Call) -> Iterator[str]:
    """The user's lines, until an empty one or the end."""
    if call.output.interactive:
        click.echo(GREETING)
    while True:
        if call.output.interactive:
            click.echo("> ", nl=False)
        line = sys.stdin.readline(MAX_LINE_CHARS + 1)
        if len(line) > MAX_LINE_CHARS:
            raise BadData(f"a line is longer than {MAX_LINE_CHARS:,} characters", "say it in fewer words")
        if not line.strip():
            return
        yield line.strip()


def _act(call: Call, node: Node, advisor: Advisor, action: Action) -> dict[str, str]:
    """Carry out what the user agreed to; what needs rows of the user's is named as a command. A failure is told."""
    from datetime import UTC, datetime

    from node.clone import clone
    from registry.paths import Ref

    if action.kind != "clone":
        return {"next": f"node {action.kind} {action.model} --data ROWS.jsonl"}
    if not any(one.id == action.model and one.source == "tree" for one in advisor.index.columns.candidates):
        return {"next": f"node import {action.model} --path PATH"}
    try:
        with call.output.progress("Cloning", unit="bytes") as bar:
            done = clone(
                node,
                Ref.parse(action.model),
                None,
                lambda progress: bar(progress.done, progress.total, progress.file),
                now=datetime.now(UTC),
            )
    except BanyanError as error:
        return {"failed": error.message, "next": error.hint}
    return {"cloned": str(done.ref), "folder": str(done.folder)}
