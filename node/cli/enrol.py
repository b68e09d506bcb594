"""`node enrol`: ask a parent to let this node speak for a place; and, at the parent, decide who may."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, DefaultGroup, command
from node.cli.output import Result
from registry.errors import BadData, LocalFailure

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from node.context import Node
    from node.enrol import Stranger
    from node.enrolments import Applicant


@click.group(
    cls=DefaultGroup,
    default="ask",
    epilog="\b\nExample:\n  node enrol http://parent.example:8420 --path en/finance/cards",
)
def enrol() -> None:
    """Ask a parent to enrol this node (`node enrol URL`), or decide who may speak for a place below this one."""


@command("node enrol http://parent.example:8420 --path en/finance/cards")
@click.argument("url", required=False)
@click.option("--path", help="The place to speak for; the first of this node's paths if not given.")
@click.option("--fingerprint", help="Fingerprint of the parent's key, as its operator told you; then nothing is asked.")
def ask(call: Call, url: str | None, *, path: str | None, fingerprint: str | None) -> Result:
    """Ask a parent to enrol this node for a place; repeat it to fetch the answer."""
    from datetime import UTC, datetime

    from node.enrol import enrol as ask_parent
    from registry.paths import NodePath

    with call.node() as node:
        address = url or node.settings.parent_url
        places = [path] if path else list(node.settings.paths[:1])
        if not address or not places:
            raise click.UsageError("name the parent's address and the place: node enrol URL --path PATH")
        place = NodePath.parse(places[0])
        state = ask_parent(node, address, place, _confirmation(call, fingerprint), datetime.now(UTC))
        own = node.key.public.fingerprint
    data = {"state": state, "parent_url": address, "path": str(place), "key": own}
    return Result(data, _asked)


def _confirmation(call: Call, fingerprint: str | None) -> Callable[[Stranger], bool]:
    """How the parent's key is confirmed: by the fingerprint that was given, else by a person."""

    def confirm(stranger: Stranger) -> bool:
        if fingerprint is not None:
            if "".join(fingerprint.split()).lower() != "".join(stranger.key.fingerprint.split()):
                raise BadData(
                    f"{stranger.url} answers with the fingerprint {stranger.key.fingerprint}, not the one you gave",
                    "ask its operator before you go on: this may be another machine",
                )
            return True
        call.output.note(
            f"{stranger.url} is {stranger.name!a}, its key has the fingerprint\n  {stranger.key.fingerprint}"
        )
        if not call.output.interactive:
            raise click.UsageError("compare the fingerprint above with its operator's, then add: --fingerprint '...'")
        return click.confirm("Does its operator say the same?", err=True)

    return confirm


@command("node enrol list --json")
def list_(call: Call) -> Result:
    """List who asked this node for a place, and what was decided."""
    from node.enrolments import list_enrolments

    with call.node() as node:
        applicants = [_described(applicant) for applicant in list_enrolments(node)]
        own = node.key.public.fingerprint
    return Result({"enrolments": applicants, "key": own}, _table)


@command("node enrol accept 3f2a --path en/finance/cards")
@click.argument("key")
@click.option("--path", help="The place that was asked for, where one key asked for several.")
def accept(call: Call, key: str, *, path: str | None) -> Result:
    """Let a key speak for the place that it asked for. KEY is the beginning of its id or fingerprint."""
    from datetime import UTC, datetime

    from node.enrolments import accept as decide

    with call.node() as node:
        found = _applicant(node, key, path)
        return Result(_described(decide(node, found.key.id, found.path, datetime.now(UTC))), _decided)


@command("node enrol revoke 3f2a --path en/finance/cards")
@click.argument("key")
@click.option("--path", help="The place that was asked for, where one key asked for several.")
def revoke(call: Call, key: str, *, path: str | None) -> Result:
    """Take a key's right to speak for a place back, or refuse it."""
    from datetime import UTC, datetime

    from node.enrolments import revoke as decide

    with call.node() as node:
        found = _applicant(node, key, path)
        return Result(_described(decide(node, found.key.id, found.path, datetime.now(UTC))), _decided)


for one in (ask, list_, accept, revoke):
    enrol.add_command(one)


def _applicant(node: Node, key: str, path: str | None) -> Applicant:
    """The one applicant that a beginning of a key id (and a path) means."""
    from node.enrolments import list_enrolments

    start = "".join(key.split()).lower()
    found = [one for one in list_enrolments(node) if one.key.id.startswith(start) and path in (None, str(one.path))]
    if not found:
        raise LocalFailure(f"no key {start!a} has asked for {path or 'a place'}", "node enrol list")
    if len(found) > 1:
        raise BadData(f"{len(found)} requests begin with {start!a}", "give more of the key id, and --path")
    return found[0]


def _described(applicant: Applicant) -> dict[str, Any]:
    return {
        "key_id": applicant.key.id,
        "fingerprint": applicant.key.fingerprint,
        "path": str(applicant.path),
        "url": applicant.url,
        "state": applicant.state,
        "expires": applicant.expires,
        "changed": applicant.changed,
    }


def _asked(data: dict[str, Any]) -> RenderableType:
    if data["state"] == "active":
        return f"enrolled: this node may speak for {data['path']}\nnext:  node pull"
    return (
        f"asked: {data['parent_url']} will decide about {data['path']}\n"
        f"Tell its operator this node's fingerprint: {data['key']}\n"
        "next:  the operator runs `node enrol accept`, then repeat this command"
    )


def _decided(data: dict[str, Any]) -> RenderableType:
    return f"{data['fingerprint']} at {data['path']}: {data['state']}"


def _table(data: dict[str, Any]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    if not data["enrolments"]:
        return f"nobody has asked to be enrolled; this node's fingerprint: {data['key']}"
    table = Table("fingerprint", "path", "state", "address", "since", box=None, header_style="bold")
    table.caption = f"this node's fingerprint: {data['key']}"
    for one in data["enrolments"]:
        since = one["changed"].strftime("%Y-%m-%d %H:%M")
        table.add_row(one["fingerprint"], one["path"], one["state"], Text(one["url"] or ""), since)
    return table
