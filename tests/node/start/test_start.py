from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from httpx_sse import connect_sse
from starlette.applications import Starlette
from starlette.routing import Mount
from transformers import AutoModelForCausalLM, AutoTokenizer

import node
from node.context import Node
from node.generation import said_by
from node.perplexity import predict, read_documents, windows
from node.serving.errors import UnknownModel
from node.source import Source
from node.started import Started, started
from registry.errors import BadData, LocalFailure
from tests.node.openai.conftest import listening
from tests.node.start.conftest import CONFIG, Folders, greedy

TEXT = "open an account"


def asked(http: httpx.Client, place: str, status: int = 200, **body: Any) -> dict[str, Any]:
    reply = http.post(place, json=body)
    assert reply.status_code == status, reply.text
    value = reply.json()
    assert isinstance(value, dict)
    return value


def test_complete_continues_a_text_as_transformers_does(http: httpx.Client, folders: Folders) -> None:
    first = asked(http, "/complete", prompt=TEXT)
    assert first["model"] == "tiny-llama"
    assert first["text"] == greedy(folders.llama, TEXT, 12)
    assert first["finish"] in ("length", "stop")
    other = asked(http, "/complete", prompt=TEXT, model="q", max_tokens=5)
    assert other["text"] == greedy(folders.qwen, TEXT, 5)
    assert other["usage"]["completion_tokens"] <= 5


def test_chat_takes_a_question_or_a_conversation(http: httpx.Client) -> None:
    alone = asked(http, "/chat", prompt="hello", ignore_eos=True)
    turns = asked(http, "/chat", messages=[{"role": "user", "content": "hello"}], ignore_eos=True)
    assert alone["text"] == turns["text"] != ""
    assert alone["usage"]["completion_tokens"] == 12  # the server's own limit
    drawn = [asked(http, "/chat", prompt="hello", temperature=2.0, seed=seed)["text"] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_an_answer_comes_in_pieces(http: httpx.Client) -> None:
    body = {"prompt": "hello", "max_tokens": 8, "ignore_eos": True}
    with connect_sse(http, "POST", "/chat-sse", json=body) as source:
        pieces = [json.loads(event.data) for event in source.iter_sse()]
    assert "".join(piece["text"] for piece in pieces) == asked(http, "/chat", **body)["text"]
    assert len(pieces) > 2
    assert pieces[-1]["finish"] == "length"
    assert pieces[-1]["usage"]["completion_tokens"] == 8


def test_an_answer_follows_a_schema(http: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    reply = asked(http, "/chat", prompt="hello", json_schema=schema, max_tokens=60)
    assert json.loads(reply["text"])["a"] in (1, 2)


def test_texts_become_vectors(http: httpx.Client) -> None:
    reply = asked(http, "/embed", texts=["one text", "another", "one text"])
    first, second, third = reply["vectors"]
    assert len(first) == 32
    assert math.isclose(math.hypot(*first), 1, rel_tol=1e-4)
    assert first == pytest.approx(third, abs=1e-5)
    assert first != pytest.approx(second, abs=1e-3)


def test_the_openai_api_answers_by_the_same_settings(url: str, http: httpx.Client) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["tiny-llama", "q"]
        reply = client.chat.completions.create(model="q", messages=[{"role": "user", "content": "hello"}])
        assert reply.choices[0].message.content == asked(http, "/chat", prompt="hello", model="q")["text"]


@pytest.mark.parametrize(
    ("place", "body", "status", "code", "param"),
    [
        ("/chat", {"prompt": "x", "model": "tiny-lama"}, 404, "model_not_found", "model"),
        ("/chat", {"prompt": "x", "temprature": 1}, 400, "unknown_parameter", "temprature"),
        ("/chat", {"prompt": "x", "temperature": 3}, 400, "invalid_value", "temperature"),
        ("/chat", {"prompt": "x", "temperature": "1"}, 400, "invalid_value", "temperature"),
        ("/chat", {"prompt": "x", "max_tokens": 0}, 400, "invalid_value", "max_tokens"),
        ("/chat", {"prompt": "x", "repetition_penalty": 0.001}, 400, "invalid_value", "repetition_penalty"),
        ("/chat", {}, 400, "invalid_value", None),
        ("/chat", {"prompt": "x", "messages": [{"role": "user", "content": "y"}]}, 400, "invalid_value", None),
        ("/chat", {"messages": [{"role": "tool", "content": "y"}]}, 400, "invalid_value", "messages.0.role"),
        ("/chat", {"prompt": "x", "json_schema": {"type": "none"}}, 400, "invalid_value", "json_schema"),
        ("/chat-sse", {"prompt": "word " * 999}, 400, "context_length_exceeded", "messages"),
        ("/complete", {"prompt": ""}, 400, "invalid_value", "prompt"),
        ("/complete", {}, 400, "missing_required_parameter", "prompt"),
        ("/embed", {"texts": []}, 400, "invalid_value", "texts"),
        ("/embed", {"texts": [""]}, 400, "invalid_value", "texts.0"),
        ("/nowhere", {}, 404, "no_such_place", None),
    ],
)
def test_errors_are_named(
    http: httpx.Client, place: str, body: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    error = asked(http, place, status, **body)["error"]
    assert (error["code"], error["param"]) == (code, param), error
    assert error["message"]
    assert error["hint"]


def test_health_and_metrics(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok", "models": 2}
    assert http.get("/ready").json()["models"] == ["tiny-llama", "q"]
    assert "banyan_generation_tokens_total" in http.get("/metrics").text
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/chat", "/chat-sse", "/complete", "/embed", "/v1/chat/completions"} <= paths.keys()


def test_an_adapter_folder_is_a_further_model(folders: Folders) -> None:
    with started([str(folders.llama)], [f"cards={folders.adapter}"], None, CONFIG, said_by({}, {})) as found:
        assert found.names == ["tiny-llama", "cards"]
        assert found.info("cards").parent == "tiny-llama"
        with node_app(found) as http:
            plain = asked(http, "/complete", prompt=TEXT, temperature=0, max_tokens=12)["text"]
            cards = asked(http, "/complete", prompt=TEXT, temperature=0, max_tokens=12, model="cards")["text"]
    assert plain == greedy(folders.llama, TEXT, 12)
    assert cards == greedy(folders.llama, TEXT, 12, folders.adapter) != plain


@contextmanager
def node_app(models: Started) -> Iterator[httpx.Client]:
    from node.api.simple.app import WithDefaults, create_started_app

    with (
        listening(create_started_app(models, WithDefaults(models), [])) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        yield http


@pytest.mark.parametrize(
    ("models", "loras", "message"),
    [
        ([], [], "no model is named"),
        (["{llama}", "{llama}"], [], "two models are called tiny-llama"),
        (["{llama}", "{qwen}"], ["{adapter}"], "an adapter belongs to one model"),
        (["{qwen}"], ["{adapter}"], "cannot be served"),
        (["{llama}"], ["x={llama}"], "adapter_config.json"),
        (["{adapter}"], [], "holds an adapter, not a model"),
        (["./nowhere"], [], "there is no folder"),
        (["a b=./x"], [], "is no name for a model"),
        (["x=en/finance"], [], "has its own name"),
        (["EN/finance"], [], ""),
    ],
)
def test_what_cannot_be_started_is_said(models: list[str], loras: list[str], message: str, folders: Folders) -> None:
    names = {"llama": folders.llama, "qwen": folders.qwen, "adapter": folders.adapter}
    with (
        pytest.raises(BadData) as refused,
        started(
            [one.format(**names) for one in models],
            [one.format(**names) for one in loras],
            None,
            CONFIG,
            said_by({}, {}),
        ),
    ):
        pass
    assert message in refused.value.message
    assert refused.value.hint


def test_a_damaged_adapter_is_refused(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_bytes((folders.adapter / "adapter_config.json").read_bytes())
    weights = (folders.adapter / "adapter_model.safetensors").read_bytes()
    (tmp_path / "adapter_model.safetensors").write_bytes(weights[:-5])
    with (
        pytest.raises(BadData),
        started([str(folders.llama)], [str(tmp_path)], None, CONFIG, said_by({}, {})),
    ):
        pass


def test_a_folder_that_looks_like_a_place_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "My_Model").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadData) as refused:
        Source.parse("My_Model")
    assert refused.value.hint == "a folder is written ./My_Model"
    assert Source.parse("./My_Model") == Source("My_Model", tmp_path / "My_Model")
    assert Source.parse("en/finance@v2") == Source("en/finance@v2")
    assert Source.parse("banyan/en.finance") == Source("en/finance")


def test_places_of_the_tree_are_served_without_the_others(tiny_node: Node) -> None:
    with started(["en"], ["master"], tiny_node, CONFIG, said_by({"temperature": "0", "max_tokens": "4"}, {})) as found:
        assert found.names == ["en", "master"]
        with node_app(found) as http:
            assert asked(http, "/chat", prompt="colour 3", model="banyan/en")["text"] is not None
            assert asked(http, "/chat", 404, prompt="x", model="en@v1")["error"]["code"] == "model_not_found"
        with pytest.raises(UnknownModel):
            found.served("de")
    with pytest.raises(LocalFailure, match="there is no node here"), started(["en"], [], None, CONFIG, said_by({}, {})):
        pass


def test_an_application_is_mounted_into_another(folders: Folders, tmp_path: Path) -> None:
    said = {"home": str(tmp_path), "threads": 1, "precision": "fp32", "temperature": 0, "max_tokens": 6}
    with node.asgi(str(folders.llama), **said) as app:
        outer = Starlette(routes=[Mount("/banyan", app)])
        with listening(outer) as url, httpx.Client(base_url=url, timeout=60) as http:  # type: ignore[arg-type]
            assert asked(http, "/banyan/complete", prompt=TEXT)["text"] == greedy(folders.llama, TEXT, 6)
            assert http.get("/banyan/v1/models").json()["data"][0]["id"] == "tiny-llama"
            assert http.get("/banyan/ready").status_code == 200
            app.close()
            assert http.get("/banyan/ready").status_code == 503
            assert asked(http, "/banyan/complete", 503, prompt=TEXT)["error"]["code"] == "unavailable"
    with pytest.raises(BadData, match="unknown generation setting"):
        node.asgi(str(folders.llama), home=str(tmp_path), temprature=0)


def test_a_key_is_wanted_where_keys_are_set(folders: Folders, tmp_path: Path) -> None:
    with (
        node.asgi(str(folders.llama), home=str(tmp_path), threads=1, api_keys=["a-long-key"]) as app,
        listening(app) as url,  # type: ignore[arg-type]
    ):
        for headers, status in (({}, 401), ({"Authorization": "Bearer a-long-key"}, 200)):
            assert httpx.post(f"{url}/embed", json={"texts": ["x"]}, headers=headers).status_code == status


@pytest.mark.parametrize(("tokens", "width"), [(2, 8), (8, 8), (9, 8), (40, 8), (5, 2), (7, 3)])
def test_windows_predict_every_token_once(tokens: int, width: int) -> None:
    seen = []
    for start, stop, new in windows(tokens, width):
        assert stop - start <= width
        assert stop - new > start  # something stands before
        seen += range(stop - new, stop)
    assert seen == list(range(1, tokens))


def test_perplexity_is_that_of_transformers(models: Started, folders: Folders, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    texts = [TEXT, "what is my balance? " * 60]  # the second is longer than the context
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = asyncio.run(predict(models.served("tiny-llama"), read_documents(file)))
    tokenizer, model = AutoTokenizer.from_pretrained(folders.llama), AutoModelForCausalLM.from_pretrained(folders.llama)
    nats, size, count = 0.0, 0, 0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        for start, stop, new in windows(ids.shape[1], 127):
            given = ids[:, start:stop]
            labels = given.clone()
            labels[:, :-new] = -100
            with torch.inference_mode():
                nats += float(model(given, labels=labels).loss) * new
        size += len(text.encode()) - len(tokenizer.decode(ids[0, :1]).encode())
        count += ids.shape[1] - 1
    assert count > 200
    assert (found.documents, found.tokens, found.bytes) == (2, count, size)
    assert found.perplexity == pytest.approx(math.exp(nats / count), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"  \n", "holds no text"),
        ("a.txt", b"\xff\xfe", "is not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"txt": "y"}\n', "line 2 has no text"),
        ("a.jsonl", b"{", "line 1 is not JSON"),
    ],
)
def test_a_file_without_text_is_refused(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadData, match=message):
        read_documents(tmp_path / name)


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BANYAN_")}
    return {**kept, "BANYAN_HOME": str(home), "OMP_NUM_THREADS": "1"}


def node_words(*words: str) -> list[str]:
    return [sys.executable, "-m", "node.cli", "start", *words]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_end(end: signal.Signals, folders: Folders, tmp_path: Path) -> None:
    config = tmp_path / "generation.toml"
    config.write_text("temperature = 0\nmax_tokens = 50\n")
    words = node_words(f"m={folders.llama}", "--port", "0", "--dtype", "fp32", "--device", "cpu", "--threads", "1",
                       "--max-tokens", "7", "--config", str(config), "--json")  # fmt: skip
    variables = {**environment(tmp_path), "BANYAN_START_IGNORE_EOS": "true"}
    with subprocess.Popen(words, stdout=-1, stderr=-1, text=True, env=variables) as process:
        assert process.stderr is not None
        found = next(match for line in process.stderr if (match := re.search(r"http://[0-9.:]+", line)))
        reply = httpx.post(f"{found[0]}/complete", json={"prompt": TEXT}, timeout=60).json()
        process.send_signal(end)
        out, _ = process.communicate(timeout=60)
    assert reply["usage"]["completion_tokens"] == 7
    assert process.returncode == 0
    assert json.loads(out) == {"state": "stopped", "models": ["m"]}


def test_the_command_refuses_and_measures(folders: Folders, tmp_path: Path) -> None:
    refused = subprocess.run(
        node_words(str(folders.llama), "--json"),
        env={**environment(tmp_path), "BANYAN_START_TEMPRATURE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert refused.returncode == 3
    assert "did you mean 'temperature'?" in json.loads(refused.stdout)["error"]["hint"]
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    words = node_words(str(folders.llama), "--perplexity", str(text), "--json", "--threads", "1")
    measured = subprocess.run(words, env=environment(tmp_path), capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(measured.stdout)["tiny-llama"]["perplexity"] > 1


def test_a_program_serves_until_it_is_told_to_end(folders: Folders, tmp_path: Path) -> None:
    program = (
        "import logging, sys, node; logging.basicConfig(level=logging.INFO); assert 'torch' not in sys.modules; "
        f"node.serve({str(folders.llama)!r}, port=0, threads=1, precision='fp32', max_tokens=3, ignore_eos=True); "
        "print('ended')"
    )
    words = [sys.executable, "-c", program]
    with subprocess.Popen(words, stdout=-1, stderr=-1, text=True, env=environment(tmp_path)) as process:
        assert process.stderr is not None
        found = next(match for line in process.stderr if (match := re.search(r"http://[0-9.:]+", line)))
        reply = httpx.post(f"{found[0]}/chat", json={"prompt": "hello"}, timeout=60).json()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert reply["usage"]["completion_tokens"] == 3
    assert (process.returncode, out) == (0, "ended\n")
