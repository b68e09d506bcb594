"""Keys, health, metrics, request ids, and the end of a node."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from pathlib import Path

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from node.api.app import create_app
from node.api.rates import Rates
from node.api.server import make_server
from node.logs import JsonLines, request_id
from node.serving.models import Models
from tests.node.openai.conftest import World, listening
from tests.world import make_node

HELLO = {"model": "en", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
KEYS = ("first-key-1", "second-key-2")


def test_without_its_key_nobody_uses_a_model(tmp_path: Path) -> None:
    node = make_node(tmp_path / "home", "master", api_keys=list(KEYS))
    with listening(create_app(node, Models(node))) as url:
        for headers in (
            {},
            {"Authorization": "Bearer x"},
            {"Authorization": f"Basic {KEYS[0]}"},
            {"Authorization": "é"},
        ):
            raw = {name: value.encode() for name, value in headers.items()}
            for place in ("models", "chat/completions"):
                reply = httpx.get(f"{url}/v1/{place}", headers=raw) if place == "models" else None
                reply = reply or httpx.post(f"{url}/v1/{place}", headers=raw, content=b"x" * 100)
                assert reply.status_code == 401
                assert reply.json()["error"]["code"] == "invalid_api_key"
                assert reply.headers["www-authenticate"] == "Bearer"
        for key in KEYS:
            with openai.OpenAI(base_url=f"{url}/v1", api_key=key) as client:
                assert [model.id for model in client.models.list()] == ["assistant"]
        assert httpx.get(f"{url}/v1/heads").status_code == 200
    node.close()


def test_without_keys_other_machines_use_no_model(tmp_path: Path) -> None:
    node = make_node(tmp_path / "home", "master")
    app = create_app(node, Models(node))

    async def ask(host: str) -> int:
        transport = httpx.ASGITransport(app, client=(host, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            return (await client.get("/v1/models")).status_code

    assert [asyncio.run(ask(host)) for host in ("127.0.0.1", "::1", "10.0.0.7", "testclient")] == [200, 200, 401, 401]
    node.close()


def test_a_node_that_serves_no_models_says_so(tmp_path: Path) -> None:
    node = make_node(tmp_path / "home", "master")
    with listening(create_app(node)) as url:
        assert httpx.get(f"{url}/ready").status_code == 503
        assert httpx.get(f"{url}/health").json() == {"status": "ok", "heads": 0}
        assert httpx.get(f"{url}/v1/models").status_code == 404
    node.close()


def test_a_node_is_ready_when_its_models_are_loaded(tmp_path: Path) -> None:
    node = make_node(tmp_path / "home", "master", serve="eager")
    models = Models(node)
    with listening(create_app(node, models)) as url:
        assert httpx.get(f"{url}/ready").status_code == 503
        models.load_all()
        assert httpx.get(f"{url}/ready").json()["status"] == "ready"
        models.close()
        assert httpx.get(f"{url}/ready").status_code == 503
    node.close()


def test_metrics_count_what_happened(world: World, client: openai.OpenAI) -> None:
    def read() -> dict[tuple[str, str], float]:
        text = httpx.get(f"{world.url}/metrics").text
        return {
            (sample.name, sample.labels.get("finished_reason", sample.labels.get("status", ""))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.labels.get("route") in (None, "/v1/chat/completions") and "le" not in sample.labels
        }

    client.chat.completions.create(**HELLO)
    before = read()
    reply = client.chat.completions.create(**HELLO)
    after = read()
    grown = {name: after[name] - before[name] for name in after if name in before}
    assert grown["banyan_http_requests_total", "200"] == 1
    assert grown["banyan_request_success_total", "length"] == 1
    assert grown["banyan_prompt_tokens_total", ""] == reply.usage.prompt_tokens
    assert grown["banyan_generation_tokens_total", ""] == 1
    assert grown["banyan_time_to_first_token_seconds_count", ""] == 1
    assert after["banyan_num_requests_running", ""] == 0


def test_a_request_keeps_its_id_and_a_bad_one_is_replaced(world: World) -> None:
    sent = httpx.get(f"{world.url}/health", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"]
    assert sent == "abc-1"
    for bad in ("a b", "x" * 200, 'a"b'):
        made = httpx.get(f"{world.url}/health", headers={"X-Request-Id": bad}).headers["x-request-id"]
        assert made.startswith("req_")
    refused = httpx.post(f"{world.api}/chat/completions", content=b"{", headers={"X-Request-Id": "abc-2"})
    assert refused.headers["x-request-id"] == "abc-2"


def test_a_json_line_holds_the_facts_of_its_event() -> None:
    record = logging.LogRecord("node.x", logging.INFO, "f", 1, "a %s", ("line\nbreak",), None)
    record.facts = {"status": 200}
    token = request_id.set("abc")
    try:
        line = JsonLines().format(record)
    finally:
        request_id.reset(token)
    assert "\n" not in line
    read = json.loads(line)
    assert (read["message"], read["request_id"], read["status"], read["level"]) == ("a line\nbreak", "abc", 200, "info")


def test_models_are_not_counted_with_what_peers_may_ask(tmp_path: Path) -> None:
    node = make_node(tmp_path / "home", "master")
    with listening(create_app(node, Models(node), rates=Rates(requests_per_s=0.001, burst=2))) as url:
        assert [httpx.get(f"{url}/v1/models").status_code for _ in range(5)] == [200] * 5
        assert [httpx.get(f"{url}/v1/heads").status_code for _ in range(3)] == [200, 200, 429]
        reply = httpx.get(f"{url}/v1/heads").json()["error"]
        assert (reply["type"], reply["param"]) == ("rate_limit_error", None)
    node.close()


def test_a_node_that_ends_lets_answers_come_to_their_end(world: World) -> None:
    server = make_server(create_app(world.node, world.models), "127.0.0.1", 0, drain_s=30)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            stream = client.chat.completions.create(
                **HELLO | {"max_tokens": 60}, stream=True, extra_body={"ignore_eos": True}
            )
            pieces = [next(iter(stream))]
            server.should_exit = True
            pieces += list(stream)
        thread.join(timeout=40)
    assert not thread.is_alive()
    assert pieces[-1].choices[0].finish_reason == "length"
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
