"""`node updates`: what was sent and what came in, and a person's decision about what was held back."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import click

from node.cli.group import Call, DefaultGroup, command
from node.cli.output import Result, plain_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from node.updates import UpdateDetail

STYLES = {
    "accepted": "green",
    "released": "green",
    "announced": "green",
    "rejected": "red",
    "quarantined": "yellow",
    "undone": "red",
}


@click.group(cls=DefaultGroup, default="list", epilog="\b\nExample:\n  node updates in")
def updates() -> None:
    """List updates sent and taken in and releases of the parent, look at one with its checks, decide about one."""


@command("node updates list in --json")
@click.argument("which", required=False, type=click.Choice(["in", "out"]))
def list_(call: Call, which: Literal["in", "out"] | None) -> Result:
    """List updates, the latest first: those that came in, those that were sent, or both."""
    from node.updates import list_updates

    with call.node() as node:
        found = list_updates(node, which)
    return Result({"updates": [asdict(summary) for summary in found]}, _table)


@command("node updates show 3f2a91c0")
@click.argument("digest")
def show(call: Call, digest: str) -> Result:
    """Show one update with every check, its value, its threshold and the reason. DIGEST may be its beginning."""
    from datetime import UTC, datetime

    from node.updates import show_update

    with call.node() as node:
        return Result(_described(show_update(node, digest, datetime.now(UTC))), _detail)


@command("node updates accept 3f2a91c0 --why 'spoke with its operator'")
@click.argument("digest")
@click.option("--why", "reason", required=True, help="Why; it is signed and the sender can read it.")
def accept(call: Call, digest: str, *, reason: str) -> Result:
    """Accept an update that was held back for a person to look at."""
    return _decide(call, digest, "accepted", reason)


@command("node updates reject 3f2a91c0 --why 'not meant for this place'")
@click.argument("digest")
@click.option("--why", "reason", required=True, help="Why; it is signed and the sender can read it.")
def reject(call: Call, digest: str, *, reason: str) -> Result:
    """Reject an update that is not yet part of a release."""
    return _decide(call, digest, "rejected", reason)


for one in (list_, show, accept, reject):
    updates.add_command(one)


def _decide(call: Call, digest: str, outcome: Literal["accepted", "rejected"], reason: str) -> Result:
    from datetime import UTC, datetime

    from node.decisions import decide

    with call.node() as node:
        return Result(_described(decide(node, digest, outcome, reason, datetime.now(UTC))), _detail)


def _described(detail: UpdateDetail) -> dict[str, Any]:
    return {
        **asdict(detail.summary),
        "update": detail.update.model_dump(mode="json"),
        "verdict": detail.verdict.model_dump(mode="json") if detail.verdict else None,
        "checks": [check.model_dump(mode="json") for check in detail.checks],
        "problem": detail.problem,
    }


def _table(data: dict[str, Any]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    if not data["updates"]:
        return "no updates yet\nnext:  node publish PATH"
    table = Table("update", "", "", "path", "number", "state", "changed", box=None, header_style="bold")
    for one in data["updates"]:
        state = Text(one["state"], style=STYLES.get(one["state"], ""))
        changed = one["changed"].strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(
            one["digest"][:16], one["direction"], one["kind"], one["path"], str(one["sequence"]), state, changed
        )
    return table


def _detail(data: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    update, verdict = data["update"], data["verdict"]
    facts = Table.grid(padding=(0, 2))
    rows = {
        data["kind"]: data["digest"],
        "direction": data["direction"],
        "path": data["path"],
        "issuer": data["issuer"],
        "number": str(data["sequence"]),
        "state": data["state"],
        **(_of_update(update) if data["kind"] == "update" else {}),
        "adapter": _adapter(update["adapter"]),
        "release": data["release"] or "",
        "verdict": f"{verdict['outcome']}: {verdict['reason']}" if verdict else "none yet",
        "problem": data["problem"],
    }
    for name, value in rows.items():
        if value:
            facts.add_row(Text(name, style="bold"), Text(plain_text(value), overflow="fold"))
    checks = Table("", "check", "value", "threshold", "reason", box=None, header_style="bold")
    for check in data["checks"]:
        mark = Text("ok", style="green") if check["passed"] else Text("FAILED", style="red")
        figures = [f"{check[name]:.4g}" if check[name] is not None else "" for name in ("value", "threshold")]
        checks.add_row(mark, check["name"], *figures, Text(plain_text(check["reason"])))
    return Group(facts, "", checks) if data["checks"] else facts


def _of_update(update: dict[str, Any]) -> dict[str, str]:
    release = update["release"]
    return {"relative to": f"{release['path']}@v{release['version']}", "rows with it": str(update["transfer_rows"])}


def _adapter(adapter: dict[str, Any] | None) -> str:
    return f"rank {adapter['shape']['rank']}, {adapter['file']['size']:,} bytes" if adapter else "none"
