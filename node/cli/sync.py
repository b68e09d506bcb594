"""`node sync`: the exchange with other nodes: how it stands, run without serving models, one round."""

from __future__ import annotations

import atexit
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, DefaultGroup, command
from node.cli.output import DONE, LOCAL_FAILURE, Result, plain_text

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.group(cls=DefaultGroup, default="status", epilog="\b\nExample:\n  node sync status")
def sync() -> None:
    """See how the exchange with the parent and the children stands, run it, or do one round of it."""


@command("node sync status --json")
def status(call: Call) -> Result:
    """Show peers, what waits, what was held back, the last errors, and why there is or is no new release."""
    from datetime import UTC, datetime

    from node.status import status as look

    with call.node() as node:
        return Result(asdict(look(node, datetime.now(UTC))), _status)


@command("node sync run --set poll_interval_s=60")
def run(call: Call) -> Result:
    """Exchange with the parent and decide about updates, without serving anything. Ctrl-C ends it."""
    with call.node() as node:
        from node.daemon import leave, run_alone

        run_alone(node)
        atexit.register(leave)
        data = {"state": "stopped", "home": str(node.settings.home)}
    return Result(data, lambda found: f"stopped: {found['home']}")


@command("node sync once")
def once(call: Call) -> Result:
    """Do one round and end: send, ask, pull, check, decide, release, rebase."""
    import random
    from datetime import UTC, datetime

    from node.status import status as look

    with call.node() as node:
        from node.daemon import run_once

        done = run_once(node, datetime.now(UTC), random.random())  # noqa: S311  spreads retries, no secret
        exchanged = done.exchanged
        failed = exchanged.error if exchanged else None
        data = {
            "sent": list(exchanged.sent) if exchanged else [],
            "pulled": [asdict(one) for one in exchanged.pulled] if exchanged else [],
            "rebased": [asdict(one) for one in done.rebased],
            "skipped": exchanged.skipped if exchanged else "",
            "error": {"message": failed.message, "hint": failed.hint} if failed else None,
            "places": [asdict(place) for place in look(node, datetime.now(UTC)).places],
        }
    return Result(data, _once, LOCAL_FAILURE if failed else DONE)


for one in (status, run, once):
    sync.add_command(one)


def _once(data: dict[str, Any]) -> RenderableType:
    lines = [f"sent: update {digest[:16]}" for digest in data["sent"]]
    for one in data["pulled"]:
        held = f": held back, {one['held']}" if one["held"] else ("" if one["new"] else " (unchanged)")
        lines.append(f"{one['path']}: v{one['version']}{held}")
    lines += [f"{one['path']}: {one['way']} over v{one['above']}, now v{one['version']}" for one in data["rebased"]]
    lines += [f"{one['path']} v{one['version']}: {one['reason']}" for one in data["places"]]
    if data["skipped"]:
        lines.append(f"the parent was left alone: {data['skipped']}")
    if data["error"]:
        lines.append(f"the parent: {data['error']['message']}\nnext:  {data['error']['hint']}")
    return plain_text("\n".join(lines) or "nothing to do")


def _status(data: dict[str, Any]) -> RenderableType:
    from rich.console import Group

    daemon = f"process {data['daemon']}" if data["daemon"] else "not running: node up, or node sync run"
    counts = (
        f"waiting: {data['inbox_waiting']} in, {data['outbox_waiting']} out; {len(data['quarantined'])} held back\n"
        "next:  node updates accept|reject DIGEST --why REASON"
        if data["quarantined"]
        else f"waiting: {data['inbox_waiting']} in, {data['outbox_waiting']} out"
    )
    parts: list[RenderableType] = [f"daemon: {daemon}", counts, *map(_held, data["quarantined"])]
    if data["peers"]:
        parts += ["", _peers(data["peers"]), *(text for one in data["peers"] for text in _troubles(one))]
    if data["places"]:
        parts += ["", _places(data["places"])]
    return Group(*parts)


def _held(one: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    why = f": {one['reason']}" if one.get("reason") else ""
    words = f"  {one['kind']} {one['digest'][:16]} of {one['path']}, number {one['number']}{why}"
    return Text(plain_text(words), overflow="fold")


def _peers(peers: list[dict[str, Any]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table("peer", "path", "address", "last contact", "last success", "MB today", "queue", box=None)
    for one in peers:
        queue = ", ".join(f"{count} {state}" for state, count in sorted(one["queue"].items()))
        times = [_time(one["last_contact"]), _time(one["last_success"])]
        table.add_row(
            one["role"], one["path"], Text(plain_text(one["url"])), *times, f"{one['bytes_today'] / 1e6:.1f}", queue
        )
    return table


def _troubles(one: dict[str, Any]) -> list[RenderableType]:
    """What is not as it should be with a peer, a line each."""
    from rich.text import Text

    lines = [
        f"  {lag['path']}: v{lag['here'] or 0} here, v{lag['offered']} there, since {_time(one['behind_since'])}"
        for lag in one["behind"]
    ]
    if one["waits"]:
        lines.append(f"  {one['waits']}")
    lines += [f"  {error['at']} {error['message']}" for error in one["errors"]]
    return [Text(plain_text(line), overflow="fold") for line in lines]


def _places(places: list[dict[str, Any]]) -> RenderableType:
    from rich.table import Table

    table = Table("place", "version", "policy", "why", "asked again", box=None)
    for one in places:
        table.add_row(one["path"], f"v{one['version']}", one["policy"], one["reason"], _time(one["again"]))
    return table


def _time(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment is not None else ""
