"""Another server as our backend: what is sent, what comes back, what it may not do to us."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from node.serving.errors import Busy, Refused, Unavailable, UnknownModel
from node.serving.requests import (
    Alternative,
    ChatRequest,
    CompletionRequest,
    Delta,
    EmbeddingRequest,
    FinishReason,
    Format,
    Message,
    NamedTool,
    Sampling,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from node.serving.upstream import UpstreamBackend
from node.serving.upstream_bounds import Limits
from registry.errors import BanyanError
from tests.node.serving.asking import KEY, asked
from tests.node.serving.scripted_server import Reply, ScriptedServer, events, json_reply, scripted_server

HELLO = ChatRequest("m", (Message("user", "hello"),))
MORE = CompletionRequest("m", "once upon")


@pytest.fixture(scope="module")
def running() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def server(running: ScriptedServer) -> ScriptedServer:
    running.replies.clear()
    running.seen.clear()
    return running


def chat_chunk(index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {
        "id": "x",
        "object": "chat.completion.chunk",
        "choices": [{"index": index, "delta": delta, "finish_reason": finish}],
    }


def text_chunk(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish, **more}]}


USED = {
    "choices": [],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}},
}
WHOLE = events(chat_chunk(role="assistant", content=""), chat_chunk(content="hi"), chat_chunk(finish="stop"), USED)


def test_a_chat_is_streamed_and_ends_with_its_usage(server: ScriptedServer) -> None:
    server.replies = [WHOLE]
    assert asked(server.url, HELLO) == [Delta(text="hi"), Delta(finish=FinishReason.STOP, usage=Usage(7, 3, 4))]
    [seen] = server.seen
    assert (seen.method, seen.path) == ("POST", "/v1/chat/completions")
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.body == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "hello"}],
    }


def test_everything_that_the_asker_set_is_sent(server: ScriptedServer) -> None:
    server.replies = [events(chat_chunk(0, "stop"), chat_chunk(1, "length"))]
    sampling = Sampling(
        max_tokens=9,
        temperature=0.0,
        top_p=0.5,
        top_k=4,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        logit_bias={5: -1.0},
        seed=0,
        stop=("a", "b"),
        stop_token_ids=(2,),
        ignore_eos=True,
        logprobs=2,
    )
    called = Message("assistant", "", tool_calls=(ToolCall("c1", "f", "{}"),))
    request = ChatRequest(
        "m",
        (Message("system", "s"), called, Message("tool", "42", tool_call_id="c1"), Message("user", "u", name="eve")),
        sampling,
        n=2,
        tools=(Tool("f", "does", {"type": "object"}, strict=True),),
        tool_choice=NamedTool("f"),
        parallel_tool_calls=False,
        format=Format("json_schema", '{"type": "object"}', "form", strict=True),
    )
    asked(server.url, request)
    body = server.seen[0].body
    del body["stream"], body["stream_options"], body["model"]
    assert body == {
        "messages": [
            {"role": "system", "content": "s"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "content": "42", "tool_call_id": "c1"},
            {"role": "user", "content": "u", "name": "eve"},
        ],
        "max_tokens": 9,
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 4,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "logit_bias": {"5": -1.0},
        "seed": 0,
        "stop": ["a", "b"],
        "stop_token_ids": [2],
        "ignore_eos": True,
        "logprobs": True,
        "top_logprobs": 2,
        "n": 2,
        "tools": [
            {
                "type": "function",
                "function": {"name": "f", "parameters": {"type": "object"}, "description": "does", "strict": True},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "form", "schema": {"type": "object"}, "strict": True},
        },
    }


def test_tool_calls_and_logprobs_come_back(server: ScriptedServer) -> None:
    first = chat_chunk(
        tool_calls=[{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]
    )
    second = chat_chunk(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}])
    second["choices"][0]["logprobs"] = {
        "content": [
            {
                "token": "{",
                "logprob": -0.5,
                "bytes": [123],
                "top_logprobs": [{"token": "[", "logprob": -2, "bytes": None}],
            }
        ]
    }
    server.replies = [events(first, second, chat_chunk(finish="tool_calls"))]
    assert asked(server.url, HELLO) == [
        Delta(tool_calls=(ToolCallDelta(0, "c", "f", ""),)),
        Delta(
            tool_calls=(ToolCallDelta(0, None, None, "{}"),),
            logprobs=(TokenLogprob("{", -0.5, b"{", (Alternative("[", -2.0),)),),
        ),
        Delta(finish=FinishReason.TOOL_CALLS),
    ]


def test_a_completion_with_logprobs(server: ScriptedServer) -> None:
    logprobs = {
        "tokens": ["a", "b"],
        "token_logprobs": [None, -1.0],
        "top_logprobs": [None, {"c": -2.0}],
        "text_offset": [0, 1],
    }
    server.replies = [events(text_chunk("ab", "length", logprobs=logprobs), USED)]
    request = replace(MORE, prompt=(1, 2), echo=True, sampling=Sampling(logprobs=1))
    given = (TokenLogprob("a", None), TokenLogprob("b", -1.0, None, (Alternative("c", -2.0),)))
    assert asked(server.url, request) == [
        Delta(text="ab", logprobs=given, finish=FinishReason.LENGTH, usage=Usage(7, 3, 4))
    ]
    body = server.seen[0].body
    assert (body["prompt"], body["echo"], body["logprobs"]) == ([1, 2], True, 1)
    assert server.seen[0].path == "/v1/completions"


def test_embeddings_are_put_in_order(server: ScriptedServer) -> None:
    server.replies = [
        json_reply(
            {
                "data": [{"index": 1, "embedding": [0, 1]}, {"index": 0, "embedding": [1, 0]}],
                "usage": {"prompt_tokens": 5},
            }
        )
    ]
    found = asked(server.url, EmbeddingRequest("m", ("a", (1, 2)), dimensions=2))
    assert found.vectors == ((1.0, 0.0), (0.0, 1.0))
    assert found.prompt_tokens == 5
    assert server.seen[0].body == {"model": "m", "input": ["a", [1, 2]], "encoding_format": "float", "dimensions": 2}


@pytest.mark.parametrize(
    "data",
    [[], [{"index": 0, "embedding": [1]}] * 2, [{"index": 0, "embedding": ["x"]}, {"index": 1, "embedding": [1]}]],
)
def test_embeddings_that_do_not_fit_the_question_are_nonsense(server: ScriptedServer, data: Any) -> None:
    server.replies = [json_reply({"data": data})]
    with pytest.raises(Unavailable, match="does not speak"):
        asked(server.url, EmbeddingRequest("m", ("a", "b")))


def test_models_are_listed(server: ScriptedServer) -> None:
    server.replies = [
        json_reply(
            {
                "object": "list",
                "data": [
                    {"id": "a", "created": 5, "owned_by": "vllm", "max_model_len": 99, "parent": "b"},
                    {"id": "c"},
                ],
            }
        )
    ]
    first, second = asked(server.url, None)
    assert (first.id, first.created, first.owned_by, first.context_tokens, first.parent) == ("a", 5, "vllm", 99, "b")
    assert (second.id, second.owned_by) == ("c", "127.0.0.1")
    assert server.seen[0].method == "GET"


@pytest.mark.parametrize(
    ("reply", "expected", "words"),
    [
        (json_reply({"error": {"message": "no temperature", "param": "temperature"}}, 400), Refused, "no temperature"),
        (json_reply({"object": "error", "message": "too long", "code": 400}, 400), Refused, "too long"),
        (json_reply({"detail": [{"loc": ["body"]}]}, 422), Refused, "loc"),
        (Reply(413, (b"<html>",), "text/html"), Refused, "refused"),
        (json_reply({"error": {"message": "no such model"}}, 404), UnknownModel, "'m'"),
        (json_reply({"object": "error", "message": "no such model"}, 404), UnknownModel, "'m'"),
        (json_reply({"detail": "Not Found"}, 404), Refused, "/v1/chat/completions"),
        (json_reply({"error": "bad key " + KEY}, 401), Unavailable, "key"),
        (json_reply({}, 302, location="http://127.0.0.1:9/"), Unavailable, "302"),
        (Reply(400, (b"x" * 100_000,)), Refused, "refused"),
        (json_reply({"error": {"message": "y" * 5000}}, 400), Refused, "y…"),
        (Reply(200, (b"{}",), headers=(("content-encoding", "gzip"),)), Unavailable, "200"),
    ],
)
def test_refusals_become_our_errors_and_are_not_repeated(
    server: ScriptedServer, reply: Reply, expected: type[BanyanError], words: str
) -> None:
    server.replies = [reply]
    with pytest.raises(expected) as raised:
        asked(server.url, HELLO)
    assert words in raised.value.message
    assert len(raised.value.message) < 500
    assert KEY not in raised.value.message
    assert len(server.seen) == 1
    if isinstance(raised.value, Refused) and "temperature" in words:
        assert raised.value.field == "temperature"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_that_cannot_now_is_asked_again(server: ScriptedServer, status: int) -> None:
    server.replies = [json_reply({}, status, retry_after="0"), json_reply({}, status, retry_after="0"), WHOLE]
    assert asked(server.url, HELLO)[0].text == "hi"
    assert len(server.seen) == 3


@pytest.mark.parametrize(("status", "expected"), [(429, Busy), (503, Unavailable)])
def test_patience_with_a_server_ends(server: ScriptedServer, status: int, expected: type[BanyanError]) -> None:
    server.replies = [json_reply({"error": {"message": "full"}}, status, retry_after="0")]
    with pytest.raises(expected, match="full"):
        asked(server.url, HELLO, Limits(attempts=2))
    assert len(server.seen) == 2


def test_a_server_that_asks_for_a_long_wait_is_not_waited_for(server: ScriptedServer) -> None:
    server.replies = [json_reply({}, 429, retry_after="86400")]
    with pytest.raises(Busy):
        asked(server.url, HELLO)
    assert len(server.seen) == 1


def test_the_wait_that_a_server_asks_for_is_kept(server: ScriptedServer) -> None:
    server.replies = [json_reply({}, 503, retry_after="1"), WHOLE]
    began = time.monotonic()
    asked(server.url, HELLO)
    assert time.monotonic() - began >= 1


def test_nobody_there_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(Unavailable, match="cannot be reached"):
        asked(f"http://127.0.0.1:{port}/v1", HELLO, Limits(attempts=2))


HALF = chat_chunk(content="half")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (events(HALF, done=False), "early"),
        (events(HALF), "early"),
        (events(HALF, {"error": {"message": "out of memory"}}), "out of memory"),
        (events(HALF, {"choices": "none"}), "does not speak"),
        (events(HALF, {"choices": [{"index": -1, "delta": {}}]}), "does not speak"),
        (Reply(200, (b"data: {\n\n",), "text/event-stream"), "does not speak"),
        (Reply(200, (b"{}",)), "does not speak"),
        (Reply(200, (b"data: \xff\xfe\n\n",), "text/event-stream"), "does not speak"),
        (events(HALF, cut=True, done=False), "broke off"),
        (Reply(200, (b"data: " + b"x" * 9_000,) * 3, "text/event-stream"), "more than it may"),
        (Reply(200, (b"data: x\n",) * 9_000, "text/event-stream"), "more than it may"),
        (Reply(200, (b": ping\n\n" * 1_000,) * 20, "text/event-stream"), "more than it may"),
        (Reply(200, (b"data: {}\n\n",), "text/event-stream", endless=True), "broke off"),
    ],
)
def test_an_answer_that_goes_wrong_is_an_error_and_not_repeated(
    server: ScriptedServer, reply: Reply, words: str
) -> None:
    server.replies = [reply]
    limits = Limits(read_s=0.3, max_event_bytes=20_000, max_body_bytes=100_000)
    with pytest.raises(Unavailable, match=words):
        asked(server.url, HELLO, limits)
    assert len(server.seen) == 1


def test_an_answer_without_all_that_were_asked_for_ended_early(server: ScriptedServer) -> None:
    server.replies = [events(chat_chunk(0, "stop"), USED)]
    with pytest.raises(Unavailable, match="early"):
        asked(server.url, replace(HELLO, n=2))


def test_a_server_that_never_ends_is_left(server: ScriptedServer) -> None:
    server.replies = [events(*[HALF] * 50)]
    ticks = iter(range(10_000))

    async def ask() -> None:
        backend = UpstreamBackend(server.url, limits=Limits(whole_s=2.5), clock=lambda: float(next(ticks)))
        with pytest.raises(Unavailable, match="longer than"):
            async for _ in backend.chat(HELLO):
                pass
        await backend.aclose()

    asyncio.run(ask())


@pytest.mark.parametrize("how", ["aclose", "cancel"])
def test_leaving_tells_the_server(server: ScriptedServer, how: str) -> None:
    server.replies = [events(HALF, done=False, endless=True)]

    async def ask() -> None:
        backend = UpstreamBackend(server.url)
        got = asyncio.Event()

        async def read() -> None:
            async with aclosing(backend.chat(HELLO)) as deltas:
                async for _ in deltas:
                    got.set()
                    if how == "aclose":
                        return

        task = asyncio.create_task(read())
        await asyncio.wait_for(got.wait(), 30)
        if how == "cancel":
            task.cancel()
        await asyncio.wait([task], timeout=30)
        assert await asyncio.to_thread(server.seen[0].left.wait, 30)
        await backend.aclose()

    asyncio.run(ask())


def test_what_the_wire_cannot_say_is_refused_unsent(server: ScriptedServer) -> None:
    with pytest.raises(Refused) as refused:
        asked(server.url, replace(HELLO, format=Format("regex", "a+")))
    assert refused.value.field == "format"
    assert server.seen == []
