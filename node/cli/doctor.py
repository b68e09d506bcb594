"""`node doctor`."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, command
from node.cli.output import DONE, LOCAL_FAILURE, Result

if TYPE_CHECKING:
    from rich.console import RenderableType

MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "failed": ("FAILED", "red")}


@command("node doctor --deep")
@click.option("--deep", is_flag=True, help="Also hash every stored file, which may take minutes.")
def doctor(call: Call, *, deep: bool) -> Result:
    """Examine this node; every problem comes with its remedy. Exit code 4 if anything failed."""
    from node.doctor import examine
    from node.key_file import find_passphrase
    from node.machine import Finding
    from registry.errors import BanyanError

    try:
        settings = call.settings()
    except BanyanError as error:
        findings = [Finding("settings", "failed", error.message, error.hint)]
    else:
        passphrase = find_passphrase(settings.place.key_file, os.environ, None)
        findings = examine(settings, passphrase=passphrase, deep=deep)
    sound = all(finding.state != "failed" for finding in findings)
    data = {"sound": sound, "findings": [asdict(finding) for finding in findings]}
    return Result(data, _view, DONE if sound else LOCAL_FAILURE)


def _view(data: dict[str, Any]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table("", "examined", "found", "remedy", box=None, header_style="bold")
    for finding in data["findings"]:
        word, colour = MARKS[finding["state"]]
        table.add_row(Text(word, style=colour), finding["name"], Text(finding["detail"]), Text(finding["remedy"]))
    return table
