"""The tools of a node with the real client of the Model Context Protocol, over the command's stdin and stdout."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from node.api.app import create_app
from node.context import Node, open_node
from node.desk import Desk
from node.jobs import queue
from node.recommending import Shelf
from node.tools import TOOLS, Bench
from registry.errors import BadData
from tests.node.jobs.test_jobs import until
from tests.processes import ROOT
from tests.world import make_node, put_tree, utc_now

TOOL = {tool.name: tool for tool in TOOLS}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = make_node(tmp_path / "home", "en", "en/finance")
    put_tree(node, "en", "en/finance")
    yield node
    node.close()


@pytest.fixture
def bench(node: Node) -> Bench:
    return Bench(Desk(node, "", from_outside=False, now=utc_now), Shelf(node))


def with_client(home: Path, talk: Callable[[Client], Awaitable[None]]) -> None:
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "node.cli", "mcp", "--home", str(home)],
        cwd=ROOT,
        env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]},
    )

    async def run() -> None:
        async with asyncio.timeout(120), Client(stdio_client(command)) as client:
            await talk(client)

    asyncio.run(run())


def test_over_stdio_an_act_needs_a_confirmation_and_becomes_a_job(node: Node) -> None:
    async def talk(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert tools.keys() == {"search_models", "recommend", "clone", "finetune", "evaluate", "job_status"}
        for tool in tools.values():
            Draft202012Validator.check_schema(tool.input_schema)
            assert tool.input_schema["additionalProperties"] is False
            assert tool.annotations is not None
            assert ("confirm" in tool.input_schema["properties"]) is not tool.annotations.read_only_hint

        async def call(name: str, **arguments: Any) -> Any:
            found = await client.call_tool(name, arguments)
            if found.is_error:
                return found.content[0].text  # type: ignore[union-attr]
            assert json.loads(found.content[0].text) == found.structured_content  # type: ignore[union-attr]
            return found.structured_content

        found = await call("recommend", need="answers about banking in English", tree_only=True)
        assert found["answers"][0]["model"] == "en/finance"
        assert (await call("search_models", words="finance", tree_only=True))["models"][0]["model"] == "en/finance"
        assert "no job was started yet" in await call("job_status")
        unsure = await call("clone", model="en/finance")
        assert (unsure["state"], unsure["would"]["kind"]) == ("not started", "clone")
        assert queue.jobs(node.store, None) == []
        job = await call("clone", model="en/finance", confirm=True)
        assert job["state"] == "queued"
        await asyncio.to_thread(until, lambda: queue.find(node.store, job["id"], "").is_over)
        job = await call("job_status", job=job["id"])
        assert job["error"] == "en/finance@v1 is its base alone, without an adapter"
        assert "colour" in await call("clone", model="en", colour="red")
        assert "no tool" in await call("bake")

    with_client(node.home.root, talk)


def test_search_finds_all_words_and_the_tree_first(bench: Bench) -> None:
    found = TOOL["search_models"].call(bench, {"words": "EN", "count": 3})
    assert found["found"] > 3
    assert found["models"][0]["source"] == "tree"
    assert TOOL["search_models"].call(bench, {"words": "no such words anywhere"})["models"] == []


def test_confirm_is_no_default_of_any_act(bench: Bench, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    for name, arguments in (("clone", {}), ("finetune", {"data": str(rows)}), ("evaluate", {"data": str(rows)})):
        values = {"model": "en/finance", **arguments}
        assert TOOL[name].call(bench, values)["state"] == "not started"
        assert TOOL[name].call(bench, values | {"confirm": False})["state"] == "not started"
        with pytest.raises(BadData, match="confirm"):
            TOOL[name].call(bench, values | {"confirm": "yes"})
        assert TOOL[name].call(bench, values | {"confirm": True})["kind"] == name
    assert len(queue.jobs(bench.desk.node.store, "")) == 3


def test_a_job_of_somebody_else_is_not_told_of(bench: Bench) -> None:
    job = TOOL["clone"].call(bench, {"model": "en", "confirm": True})
    other = Bench(Desk(bench.desk.node, "bob", from_outside=True, now=utc_now), bench.shelf)
    with pytest.raises(BadData, match="no job"):
        TOOL["job_status"].call(other, {"job": job["id"]})


async def over_http(url: str, talk: Callable[[Client], Awaitable[None]], key: str = "") -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        asyncio.timeout(120),
        create_mcp_http_client(headers=headers) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
    ):
        await talk(client)


def test_over_http_files_are_plain_names_and_jobs_their_askers(node: Node, serve: Callable[..., str]) -> None:
    keyed = open_node(node.settings.model_copy(update={"api_keys": ("key-of-ann", "key-of-bob")}))
    url = serve(create_app(keyed))
    jobs: list[int] = []

    async def ann(client: Client) -> None:
        assert len((await client.list_tools()).tools) == len(TOOLS)
        told = await client.call_tool("evaluate", {"model": "en", "data": "/etc/passwd", "confirm": True})
        assert told.is_error
        assert "not a plain name" in told.content[0].text  # type: ignore[union-attr]
        job = await client.call_tool("clone", {"model": "en", "confirm": True})
        jobs.append(job.structured_content["id"])

    async def bob(client: Client) -> None:
        assert (await client.call_tool("job_status", {"job": jobs[0]})).is_error

    asyncio.run(over_http(url, ann, "key-of-ann"))
    asyncio.run(over_http(url, bob, "key-of-bob"))
    assert queue.find(node.store, jobs[0], None).kind == "clone"
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert httpx.post(f"{url}/mcp", json={}, headers=headers).status_code == 401
    assert httpx.get(f"{url}/mcp").status_code == 405
    keyed.close()


def test_without_keys_a_name_of_somebody_elses_leads_nowhere(node: Node, serve: Callable[..., str]) -> None:
    """What DNS rebinding does: a page's own name, resolved to this machine."""
    url = serve(create_app(node))
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    taken = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25"}
    assert httpx.post(f"{url}/mcp", json=body, headers=taken).status_code == 200
    for odd in ({"Host": "evil.example:80"}, {"Origin": "http://evil.example"}):
        assert httpx.post(f"{url}/mcp", json=body, headers=taken | odd).status_code in (401, 421)
