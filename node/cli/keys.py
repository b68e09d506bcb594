"""`node keys`: who this node is, and the passphrase of its key file."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, DefaultGroup, command
from node.cli.output import Result

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.group(cls=DefaultGroup, default="show", epilog="\b\nExample:\n  node keys")
def keys() -> None:
    """Show the public key of this node, or lock its key file with a passphrase."""


@command("node keys show --json")
def show(call: Call) -> Result:
    """Show fingerprint and public key; the private key is never shown."""
    from node.key_file import is_locked
    from registry.keys import PrivateKey

    settings = call.settings()
    file = settings.place.key_file
    public = PrivateKey.load(file, call.passphrase(settings)).public
    data = {
        "fingerprint": public.fingerprint,
        "id": public.id,
        "public_key": public.hex,
        "file": str(file),
        "locked": is_locked(file),
    }
    return Result(data, _view)


@command("node keys passphrase")
@click.option("--remove", is_flag=True, help="Leave the key file without a passphrase.")
def passphrase(call: Call, *, remove: bool) -> Result:
    """Lock the key file with a new passphrase: asked for twice, or the first line of stdin.

    A daemon then needs it in BANYAN_PASSPHRASE.
    """
    from node.key_file import change_passphrase

    settings = call.settings()
    old = call.passphrase(settings)
    change_passphrase(settings.place.key_file, old, None if remove else _new_passphrase())
    return Result({"locked": not remove, "file": str(settings.place.key_file)}, _outcome)


keys.add_command(show)
keys.add_command(passphrase)


def _new_passphrase() -> str:
    if sys.stdin.isatty():
        text: str = click.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True)
        return text
    return sys.stdin.readline(1024).rstrip("\r\n")


def _view(data: dict[str, Any]) -> RenderableType:
    locked = "with a passphrase" if data["locked"] else "without a passphrase: node keys passphrase"
    return os.linesep.join(
        [
            f"fingerprint  {data['fingerprint']}",
            f"key id       {data['id']}",
            f"public key   {data['public_key']}",
            f"file         {data['file']} ({locked})",
        ]
    )


def _outcome(data: dict[str, Any]) -> RenderableType:
    return f"{data['file']} is now {'locked with the new passphrase' if data['locked'] else 'without a passphrase'}"
