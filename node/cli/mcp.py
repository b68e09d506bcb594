"""`node mcp`."""

from __future__ import annotations

from node.cli.group import Call, command
from node.cli.output import Result


@command("node mcp --home HOME")
def mcp(call: Call) -> Result:
    """Serve the tools of this node over the Model Context Protocol, on stdin and stdout of whoever starts it.

    search_models, recommend and job_status look; clone, finetune and evaluate start jobs where the user has agreed.
    """
    from datetime import UTC, datetime

    with call.node() as node:
        from node.jobs.runner import working
        from node.mcp import serve

        with working(node):
            serve(node, lambda: datetime.now(UTC))
    return Result({"state": "stopped"}, lambda _: "")
