"""`node config`: what is set, where it came from, and setting it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, command
from node.cli.output import Result

if TYPE_CHECKING:
    from rich.console import RenderableType

    from node.settings import Settings


@click.group(epilog="\b\nExample:\n  node config show")
def config() -> None:
    """Show and change the settings of this node."""


@command("node config show gate_max_loss_points --json")
@click.argument("key", required=False)
def show(call: Call, key: str | None) -> Result:
    """Show every setting, its value and where the value came from; or one of them."""
    from node.settings import Settings, known

    settings = call.settings()
    keys = [known(key)] if key else list(Settings.model_fields)
    return Result({"settings": {name: _described(settings, name) for name in keys}}, _table)


@command("node config set poll_interval_s 10")
@click.argument("key")
@click.argument("value")
def set_(call: Call, key: str, value: str) -> Result:
    """Write a setting into the file of this node."""
    from node.settings import known, store_settings

    home = call.settings().home
    store_settings(home, {known(key): value})
    return _outcome(call, key)


@command("node config unset poll_interval_s")
@click.argument("key")
def unset(call: Call, key: str) -> Result:
    """Remove a setting from the file of this node, so that its default holds again."""
    from node.settings import find_home, store_settings

    store_settings(find_home(call.flags), {key: None})  # also an unknown key, which the rest of the program refuses
    return _outcome(call, key)


config.add_command(show)
config.add_command(set_)
config.add_command(unset)


def _outcome(call: Call, key: str) -> Result:
    from node.settings import Settings

    settings = call.settings()
    names = [key] if key in Settings.model_fields else []
    return Result({"settings": {name: _described(settings, name) for name in names}}, _table)


def _described(settings: Settings, key: str) -> dict[str, Any]:
    from node.settings import shown_value

    field = type(settings).model_fields[key]
    value = shown_value(key, getattr(settings, key))
    return {"value": value, "origin": settings.origin(key), "description": field.description}


def _table(data: dict[str, Any]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table("setting", "value", "from", "what it is", box=None, header_style="bold")
    for key, entry in data["settings"].items():
        value = entry["value"]
        shown = ", ".join(value) if isinstance(value, list) else str(value)
        table.add_row(key, Text(shown), Text(entry["origin"]), entry["description"])
    return table
