"""Everything that can be wrong with a request is said in one form, with the field that is wrong."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.node.openai.conftest import World

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = "chat/completions", "completions", "embeddings", "responses"
HELLO = {"model": "en", "messages": [{"role": "user", "content": "hello"}]}
BAD_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def refusal(reply: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = reply.json()["error"]
    assert error.keys() == {"message", "hint", "code", "type", "param"}
    assert error["message"]
    return error


@pytest.mark.parametrize("place", [CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES])
@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b'{"model": "\xff"}', b'{"model": "\\ud800"}', b"[" * 100_000],
)
def test_what_is_no_json_object_is_refused(world: World, place: str, data: bytes) -> None:
    reply = httpx.post(f"{world.api}/{place}", content=data)
    assert reply.status_code == 400
    refusal(reply)


@pytest.mark.parametrize("place", [CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES])
def test_a_body_of_ten_megabytes_is_refused_unread(world: World, place: str) -> None:
    body = json.dumps({"model": "en", "input": "x" * 10_000_000})
    reply = httpx.post(f"{world.api}/{place}", content=body)
    assert (reply.status_code, refusal(reply)["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("place", "change", "param"),
    [
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": [{"role": "robot", "content": "x"}]}, "messages.0"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0"),
        (CHAT, {"model": None}, "model"),
        (CHAT, {"n": 10**9}, "n"),
        (CHAT, {"n": 0}, "n"),
        (CHAT, {"n": 10**400}, "n"),
        (CHAT, {"n": 100}, "n"),
        (CHAT, {"max_tokens": -1}, "max_tokens"),
        (CHAT, {"max_completion_tokens": 0}, "max_completion_tokens"),
        (CHAT, {"temperature": -0.1}, "temperature"),
        (CHAT, {"temperature": "1"}, "temperature"),
        (CHAT, {"top_p": 1.5}, "top_p"),
        (CHAT, {"seed": 1.5}, "seed"),
        (CHAT, {"stop": [""]}, "stop"),
        (CHAT, {"logit_bias": {"x": 1}}, "logit_bias"),
        (CHAT, {"logit_bias": {"8192": 1}}, "logit_bias"),
        (CHAT, {"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        (CHAT, {"response_format": BAD_SCHEMA}, "response_format"),
        (CHAT, {"response_format": {"type": "regex", "regex": "("}}, "response_format"),
        (CHAT, {"tool_choice": "required"}, "tool_choice"),
        (CHAT, {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        (CHAT, {"reasoning_effort": "low"}, "reasoning_effort"),
        (CHAT, {"functions": []}, "functions"),
        (CHAT, {"audio": {}}, "audio"),
        (CHAT, {"nonsense": 1}, "nonsense"),
        (COMPLETIONS, {"suffix": "x"}, "suffix"),
        (COMPLETIONS, {"prompt": []}, "prompt"),
        (COMPLETIONS, {"prompt": [8192]}, "prompt"),
        (COMPLETIONS, {"prompt": [-1]}, "prompt"),
        (COMPLETIONS, {"logprobs": 21}, "logprobs"),
        (EMBEDDINGS, {"dimensions": 3}, "dimensions"),
        (EMBEDDINGS, {"input": ""}, "input"),
        (EMBEDDINGS, {"encoding_format": "int8"}, "encoding_format"),
        (RESPONSES, {"previous_response_id": "resp_1"}, "previous_response_id"),
        (RESPONSES, {"reasoning": {}}, "reasoning"),
        (RESPONSES, {"background": True}, "background"),
        (RESPONSES, {"tools": [{"type": "web_search"}]}, "tools.0"),
        (RESPONSES, {"text": {"format": BAD_SCHEMA["json_schema"] | {"type": "json_schema"}}}, "text.format"),
    ],
)
def test_a_field_that_does_not_fit_is_named(world: World, place: str, change: dict[str, Any], param: str) -> None:
    good = {
        CHAT: HELLO,
        COMPLETIONS: {"model": "en", "prompt": "x"},
        EMBEDDINGS: {"model": "en", "input": "x"},
        RESPONSES: {"model": "en", "input": "x"},
    }
    reply = httpx.post(f"{world.api}/{place}", json=good[place] | change)
    assert reply.status_code == 400, reply.text
    error = refusal(reply)
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "").startswith(param), error


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers(client: openai.OpenAI, stream: bool) -> None:
    for words in (2_000, 500_000):  # also where it is too long to be tokenised
        messages = [{"role": "user", "content": "hello " * words}]
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="en", messages=messages, stream=stream)
        assert refused.value.code == "context_length_exceeded"
        assert "1024 tokens" in refused.value.message


def test_an_unknown_model_is_refused_with_those_that_may_be_meant(client: openai.OpenAI) -> None:
    for call in (
        lambda: client.chat.completions.create(**HELLO | {"model": "en/finanse/cards"}),
        lambda: client.completions.create(model="en/finanse/cards", prompt="x"),
        lambda: client.embeddings.create(model="en/finanse/cards", input="x"),
        lambda: client.responses.create(model="en/finanse/cards", input="x"),
        lambda: client.models.retrieve("en/finanse/cards"),
    ):
        with pytest.raises(openai.NotFoundError, match="en/finance/cards") as refused:
            call()
        assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("name", ["en@v9", "banyan/x.y", "banyan/", "../../etc/passwd", "x" * 300, "en/@v1", "EN", "é"])
def test_no_name_breaks_the_search(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**HELLO | {"model": name})


def test_places_and_methods_that_are_not_there_are_refused_in_the_same_form(world: World) -> None:
    for method, place, status in (("GET", CHAT, 405), ("POST", "models", 405), ("POST", "audio/speech", 404)):
        reply = httpx.request(method, f"{world.api}/{place}")
        assert reply.status_code == status
        refusal(reply)
