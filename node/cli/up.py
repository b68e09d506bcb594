"""`node up`."""

from __future__ import annotations

import atexit

import click

from node.cli.group import Call, command
from node.cli.output import Result


@command("node up --port 8420")
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on; 0 for a free one.")
@click.option("--threads", type=int, help="CPU threads for models; 0 for all cores.")
def up(call: Call, *, host: str | None, port: int | None, threads: int | None) -> Result:
    """Run this node: serve its models, take in updates, make releases, follow the parent.

    Ctrl-C or SIGTERM ends it: answers on their way get `drain_s`, models are closed, the exit code is 0.
    """
    with call.node(host=host, port=port, threads=threads) as node:
        from node.daemon import leave, run
        from node.jobs.runner import working

        with working(node):
            run(node)
        atexit.register(leave)
        data = {"state": "stopped", "home": str(node.settings.home)}
    return Result(data, lambda found: f"stopped: {found['home']}")
