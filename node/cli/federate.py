"""`node federate`: synchronous rounds with the children through Flower: serve them, take part, run them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, command
from node.cli.output import REFUSED, Result, plain_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sync.federation.desk import Ruling


@click.group(epilog="\b\nExample:\n  node federate serve --port 8430")
def federate() -> None:
    """Rounds in which all children train at once: serve them, take part in the parent's, run them to a release.

    Needs the extra: pip install 'banyan-node[federation]'.
    """


@command("node federate serve --port 8430 --address hub.example:8430")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8430, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 for a free one.")
@click.option("--address", default="", help="HOST:PORT that children are told, where it is another.")
def serve(call: Call, *, host: str, port: int, address: str) -> Result:
    """Let enrolled children take part in rounds, beside `node up`, which tells them where. Ctrl-C ends it."""
    with call.node() as node:
        from node.federation.serving import serve as serve_rounds

        told = "rounds are served at"
        serve_rounds(node, host, port, lambda served: call.output.note(f"{told} {served.address}"), address=address)
        data = {"state": "stopped", "home": str(node.settings.home)}
    return Result(data, lambda found: f"stopped: {found['home']}")


@command("node federate join en/finance/cards --data cards.csv")
@click.argument("path")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Rows to train on, which stay here. Without them, this node's own release is what it brings.",
)
@click.option("--epochs", default=1, show_default=True, type=click.IntRange(1, 100), help="Passes over them a round.")
@click.option("--clip", type=float, help="Local privacy: the norm that a change is cut to before noise is added.")
@click.option("--epsilon", type=float, help="Local privacy: its budget for each round, with delta 1e-5.")
def join(call: Call, path: str, *, data: Path | None, epochs: int, clip: float | None, epsilon: float | None) -> Result:
    """Take part in the parent's rounds until Ctrl-C."""
    import signal
    import threading

    from registry.paths import NodePath

    if (clip is None) != (epsilon is None):
        raise click.UsageError("local privacy needs both --clip and --epsilon")
    place, stop = NodePath.parse(path), threading.Event()
    with call.node() as node:
        from node.federation.joining import join as take_part
        from sync.federation.client import LocalPrivacy

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        private = LocalPrivacy(clip, epsilon) if clip is not None and epsilon is not None else None
        said = "takes part in the rounds at"
        take_part(
            node,
            place,
            data,
            lambda joined: call.output.note(f"{joined.path} {said} {joined.address}"),
            stop,
            epochs=epochs,
            private=private,
        )
    return Result({"state": "stopped", "path": path}, lambda found: f"stopped: {found['path']}")


@command("node federate run en/finance --rounds 3 --least 2")
@click.argument("path")
@click.option("--rounds", default=3, show_default=True, type=int, help="Rounds.")
@click.option("--least", default=2, show_default=True, type=int, help="Contributions that a round needs.")
@click.option("--deadline", default=600.0, show_default=True, type=float, help="Seconds that a round may take.")
@click.option("--gather", default=120.0, show_default=True, type=float, help="Seconds to wait for the first children.")
@click.option("--rank", default=16, show_default=True, type=int, help="Rank of the adapter that travels.")
@click.option("--rule", default="mean", show_default=True, help="Rule of aggregation.")
@click.option("--liars", default=0, show_default=True, type=int, help="How many contributions may lie.")
@click.option("--noise", type=float, help="Central privacy: noise, as a multiple of the norm.")
@click.option("--clip", type=float, help="Central privacy: the norm that every change is cut to.")
def run(
    call: Call,
    path: str,
    *,
    rounds: int,
    least: int,
    deadline: float,
    gather: float,
    rank: int,
    rule: str,
    liars: int,
    noise: float | None,
    clip: float | None,
) -> Result:
    """Go through rounds with the children that have joined, and make a release that meets the gate."""
    from registry.paths import NodePath

    if (noise is None) != (clip is None):
        raise click.UsageError("central privacy needs both --noise and --clip")
    place = NodePath.parse(path)
    with call.node() as node:
        from node.federation.running import run_federation
        from sync.federation.plan import CentralPrivacy, RoundsPlan

        plan = RoundsPlan(
            rounds=rounds,
            rank=rank,
            rule=rule,
            f=liars,
            least=least,
            deadline_s=deadline,
            gather_s=gather,
            private=CentralPrivacy(noise, clip) if noise is not None and clip is not None else None,
        )
        done = run_federation(node, place, plan, lambda ruling: call.output.note(_said(ruling)))
    release = done.promotion.release
    data = {
        "run": done.run,
        "path": path,
        "version": release.version if release else None,
        "release": done.promotion.digest,
        "rulings": list(done.rulings),
        "checks": list(done.promotion.checks),
    }
    return Result(data, _ran, 0 if release else REFUSED)


@command("node federate show --json")
def show(call: Call) -> Result:
    """Show the runs of this node, the newest first: who contributed, what was refused and why."""
    with call.node() as node:
        from node.federation.running import records

        return Result(records(node), _records)


for one in (serve, join, run, show):
    federate.add_command(one)


def _said(ruling: Ruling) -> str:
    who = ruling.path or f"client {ruling.client}"
    return plain_text(f"round {ruling.round}: {who} {ruling.outcome}: {ruling.reason}")


def _ran(data: dict[str, Any]) -> RenderableType:
    if data["version"]:
        counted = sum(one.outcome == "accepted" for one in data["rulings"])
        return f"{data['path']}@v{data['version']} of {counted} contributions"
    failed = [f"{check.name}: {check.reason}" for check in data["checks"] if not check.passed]
    return plain_text("\n".join([f"{data['path']}: no release, the gate refused", *failed]))


def _records(found: list[dict[str, Any]]) -> RenderableType:
    lines = []
    for record in found:
        outcome = f"v{record['version']}" if record["version"] else record["problem"] or "no release"
        lines.append(f"{record['started']} {record['path']}: {outcome}")
        for one in record["rulings"]:
            who = one["path"] or f"client {one['client']}"
            lines.append(f"  round {one['round']}: {who} {one['outcome']}: {one['reason']}")
    return plain_text("\n".join(lines) or "no runs yet: node federate run")
