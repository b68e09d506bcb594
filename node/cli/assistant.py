"""`node assistant`: what the conversation about a model understands."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, command
from node.cli.output import Result

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.group()
def assistant() -> None:
    """Understand what a user needs of a model."""


@command("node assistant extract 'Summarise Dutch letters on a T4' 'and Apache 2.0, please' --json")
@click.argument("turns", nargs=-1, metavar="[TURN]...")
def extract(_: Call, *, turns: tuple[str, ...]) -> Result:
    """Say what the user's turns ask of a model: the rules in force after the last one, null where nothing is asked.

    Without TURN it reads JSON Lines from stdin, {"turns": ["...", "..."]} on each, and gives one JSON object for each.
    """
    from assistant.dialogues import read_dialogues
    from assistant.extract import extract as understand

    if turns:
        return Result(understand(turns).rules(), _rules)
    dialogues = read_dialogues(sys.stdin.buffer)
    return Result([understand(dialogue).rules() for dialogue in dialogues], _several)


def _several(data: list[dict[str, Any]]) -> RenderableType:
    return "\n\n".join(_rules(rules) for rules in data)


def _rules(data: dict[str, Any]) -> str:
    said = [f"{slot:20} {value}" for slot, value in data.items() if value is not None]
    return "\n".join(said) or "nothing is asked of a model here"


assistant.add_command(extract)
