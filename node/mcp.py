"""The tools of this node over the Model Context Protocol: on stdin and stdout, and as the answer to an HTTP request.

Who starts it on stdin is the user of this machine, so files may be named by any path; each act still needs `confirm`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from mcp import types
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import Receive, Scope, Send

from node.context import Node
from node.desk import Desk
from node.recommending import Shelf
from node.tools import TOOLS, Bench, Tool
from registry.errors import BanyanError

BODY_BYTES: Final = 1 << 20
INSTRUCTIONS: Final = (
    "Find a language model that fits a need and a machine, then clone, fine-tune or evaluate it on this node. "
    "clone, finetune and evaluate start a job only with confirm: true: ask the user first. job_status tells how far it "
    "is."
)


def serve(node: Node, now: Callable[[], datetime]) -> None:
    """Serve until stdin ends."""
    asyncio.run(_serve(server(Bench(Desk(node, "", from_outside=False, now=now), Shelf(node)))))


async def _serve(served: Server[Any]) -> None:
    async with stdio_server() as (read, write):
        await served.run(read, write, served.create_initialization_options())


async def answer(bench: Bench, scope: Scope, receive: Receive, send: Send, *, from_pages: bool) -> None:
    """Answer one HTTP request with a server of its own, which keeps nothing.

    `from_pages`: pages in a browser may ask as well. Where no key shows who asks they may not, and the request must
    name this machine as its host, so that no name of somebody else's leads here.
    """
    safe = TransportSecuritySettings(
        enable_dns_rebinding_protection=not from_pages, allowed_hosts=["127.0.0.1:*", "localhost:*", "[::1]:*"]
    )
    manager = StreamableHTTPSessionManager(
        server(bench), json_response=True, stateless=True, security_settings=safe, max_request_body_size=BODY_BYTES
    )
    async with manager.run():
        await manager.handle_request(scope, receive, send)


def server(bench: Bench) -> Server[Any]:
    """The protocol's server over a bench."""
    tools = {tool.name: tool for tool in TOOLS}

    async def listed(_: ServerRequestContext[Any], __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_described(tool) for tool in TOOLS])

    async def called(_: ServerRequestContext[Any], asked: types.CallToolRequestParams) -> types.CallToolResult:
        tool = tools.get(asked.name)
        if tool is None:
            return _failed(f"there is no tool {asked.name!a:.100}", f"one of: {', '.join(tools)}")
        try:
            found = await asyncio.to_thread(tool.call, bench, asked.arguments or {})
        except BanyanError as error:
            return _failed(error.message, error.hint)
        return _result(found)

    return Server("banyan", instructions=INSTRUCTIONS, on_list_tools=listed, on_call_tool=called)


def _described(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        description=tool.description,
        input_schema=tool.arguments.model_json_schema(),
        annotations=types.ToolAnnotations(
            read_only_hint=not tool.acts, destructive_hint=False, idempotent_hint=True, open_world_hint=False
        ),
    )


def _result(found: Mapping[str, Any]) -> types.CallToolResult:
    text = json.dumps(found, ensure_ascii=False, allow_nan=False)
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], structured_content=dict(found))


def _failed(message: str, hint: str) -> types.CallToolResult:
    text = f"{message}\nnext:  {hint}" if hint else message
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=True)
