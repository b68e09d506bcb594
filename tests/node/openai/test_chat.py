from __future__ import annotations

import asyncio
import json
import time

import httpx
import openai
import pytest

from node.generate import generate
from registry.paths import Ref
from tests.node.openai.conftest import World

CARDS = "en/finance/cards"
STOLEN = [{"role": "user", "content": "my card was stolen"}]
CITIES = {"type": "object", "properties": {"city": {"enum": ["Bern", "Rome"]}}, "required": ["city"]}
CITIES["additionalProperties"] = False
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITIES}}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}


def test_an_answer_is_that_of_the_model_of_the_path(world: World, client: openai.OpenAI) -> None:
    """The same prompt, the same greedy tokens as the reference: `node generate`."""
    reply = client.chat.completions.create(model=CARDS, messages=STOLEN, temperature=0)
    expected = generate(world.node, Ref.parse(CARDS), "my card was stolen")["output"]
    assert reply.choices[0].message.content == expected
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_the_system_message_is_the_task_of_the_path(world: World, client: openai.OpenAI) -> None:
    messages = [{"role": "system", "content": "intent"}, *STOLEN]
    reply = client.chat.completions.create(model=CARDS, messages=messages, temperature=0, max_tokens=60)
    expected = generate(world.node, Ref.parse(CARDS), "my card was stolen", task="intent", max_new_tokens=60)
    assert reply.choices[0].message.content == expected["output"]


@pytest.mark.parametrize("name", [CARDS, f"{CARDS}@v1", "banyan/en.finance.cards", "banyan/en.finance.cards@v1"])
def test_every_name_of_a_model_is_understood(client: openai.OpenAI, name: str) -> None:
    reply = client.chat.completions.create(model=name, messages=STOLEN, temperature=0, max_tokens=1)
    assert reply.model == name
    assert reply.usage.completion_tokens == 1


def test_a_stream_is_the_answer_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=CARDS, messages=STOLEN, temperature=0)
    pieces = list(
        client.chat.completions.create(
            model=CARDS, messages=STOLEN, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    assert len(pieces) > 5
    assert pieces[0].choices[0].delta.role == "assistant"
    told = [piece.choices[0] for piece in pieces if piece.choices]
    assert "".join(choice.delta.content or "" for choice in told) == whole.choices[0].message.content
    assert [choice.finish_reason for choice in told if choice.finish_reason] == ["stop"]
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert {piece.id for piece in pieces} == {pieces[0].id}


def test_usage_is_left_out_of_a_stream_unless_it_is_asked_for(world: World) -> None:
    body = {"model": CARDS, "messages": STOLEN, "max_tokens": 2, "stream": True}
    reply = httpx.post(f"{world.api}/chat/completions", json=body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in reply.text.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all("usage" not in json.loads(line.removeprefix("data: ")) for line in lines[:-1])


def test_a_seed_repeats_answers_and_n_gives_several(client: openai.OpenAI) -> None:
    def ask(seed: int) -> list[str | None]:
        reply = client.chat.completions.create(
            model="en", messages=STOLEN, n=3, seed=seed, max_tokens=12, temperature=2
        )
        assert [choice.index for choice in reply.choices] == [0, 1, 2]
        return [choice.message.content for choice in reply.choices]

    first = ask(1)
    assert ask(1) == first
    assert len({*first, *ask(2)}) > 1


def test_stop_strings_end_an_answer_and_are_not_in_it(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=CARDS, messages=STOLEN, temperature=0).choices[0].message.content
    cut = client.chat.completions.create(model=CARDS, messages=STOLEN, temperature=0, stop=["_card"]).choices[0]
    assert whole is not None
    assert (cut.message.content, cut.finish_reason) == (whole.partition("_card")[0], "stop")


def test_logprobs_belong_to_the_tokens_of_the_answer(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(
        model=CARDS, messages=STOLEN, temperature=0, logprobs=True, top_logprobs=2, max_completion_tokens=6
    ).choices[0]
    assert choice.logprobs is not None
    tokens = choice.logprobs.content
    assert len(tokens) == 6
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == choice.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 2
        assert token.logprob == token.top_logprobs[0].logprob <= 0


def test_an_answer_follows_a_json_schema(client: openai.OpenAI) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": CITIES, "strict": True}}
    for seed in range(3):
        reply = client.chat.completions.create(model="en", messages=STOLEN, response_format=wanted, seed=seed)
        assert json.loads(reply.choices[0].message.content)["city"] in ("Bern", "Rome")
    reply = client.chat.completions.create(
        model="en", messages=STOLEN, response_format={"type": "json_object"}, temperature=0
    )
    assert isinstance(json.loads(reply.choices[0].message.content), dict)


@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", {"weather", "clock"}), ({"type": "function", "function": {"name": "weather"}}, {"weather"})],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_required_comes_with_arguments_of_its_schema(
    client: openai.OpenAI, choice: object, names: set[str], stream: bool
) -> None:
    with (
        client.chat.completions.stream(model="en", messages=STOLEN, tools=[WEATHER, CLOCK], tool_choice=choice, seed=1)
        if stream
        else _once(
            client.chat.completions.create(
                model="en", messages=STOLEN, tools=[WEATHER, CLOCK], tool_choice=choice, seed=1
            )
        ) as reply
    ):
        answer = (reply.get_final_completion() if stream else reply).choices[0]
    [call] = answer.message.tool_calls
    assert answer.finish_reason == "tool_calls"
    assert call.function.name in names
    if call.function.name == "weather":
        assert json.loads(call.function.arguments)["city"] in ("Bern", "Rome")


class _once:  # noqa: N801  a value where a context is wanted
    def __init__(self, value: object) -> None:
        self.value = value

    def __enter__(self) -> object:
        return self.value

    def __exit__(self, *_: object) -> None:
        pass


def test_a_conversation_with_calls_goes_on(client: openai.OpenAI) -> None:
    """What a reply said may come back as it is, with the answer of the tool."""
    first = client.chat.completions.create(model="en", messages=STOLEN, tools=[WEATHER], tool_choice="required")
    said = first.choices[0].message
    messages = [*STOLEN, said.model_dump(), {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "sun"}]
    after = client.chat.completions.create(model="en", messages=messages, tools=[WEATHER], max_tokens=4)
    assert after.usage.prompt_tokens > first.usage.prompt_tokens
    none = client.chat.completions.create(
        model="en", messages=STOLEN, tools=[WEATHER], tool_choice="none", max_tokens=4
    )
    assert none.choices[0].message.tool_calls is None


def test_line_ends_that_only_python_knows_do_not_break_a_stream(client: openai.OpenAI) -> None:
    text = "\u2028".join("ab") + "\x85"
    wanted = {"type": "regex", "regex": "a\u2028b\x85"}
    pieces = client.chat.completions.create(
        model="en", messages=STOLEN, stream=True, extra_body={"response_format": wanted}
    )
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == text


def test_a_client_that_leaves_frees_its_answer(world: World) -> None:
    body = {"model": "en", "messages": STOLEN, "max_tokens": 900, "ignore_eos": True}
    [engine] = world.models.engines.values()
    for stream in (True, False):
        with (
            httpx.Client() as client,
            pytest.raises(httpx.ReadTimeout),
            client.stream(
                "POST", f"{world.api}/chat/completions", json=body | {"stream": stream}, timeout=0.5
            ) as reply,
        ):
            for line in reply.iter_lines():
                if line:
                    raise httpx.ReadTimeout("enough was read")
        deadline = time.monotonic() + 20
        while engine.statistics().num_requests_running:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert engine.statistics().request_success_total["cancelled"] >= 2
    assert engine.statistics().kv_cache_usage_perc < 1


def test_64_clients_at_a_time_are_all_answered(world: World) -> None:
    async def ask_all() -> list[int]:
        async with openai.AsyncOpenAI(base_url=world.api, api_key="none", max_retries=0) as client:

            async def ask(number: int) -> int:
                stream = await client.chat.completions.create(
                    model=CARDS, messages=[{"role": "user", "content": f"card {number}"}], max_tokens=4, stream=True,
                    extra_body={"ignore_eos": True},
                )  # fmt: skip
                return len([piece async for piece in stream])

            return await asyncio.gather(*(ask(number) for number in range(64)))

    assert all(count >= 2 for count in asyncio.run(ask_all()))


def test_fields_without_effect_change_nothing(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model=CARDS, messages=STOLEN, temperature=0)
    dressed = client.chat.completions.create(
        model=CARDS, messages=STOLEN, temperature=0, user="somebody", metadata={"a": "b"}, store=True,
        service_tier="auto", safety_identifier="x", prompt_cache_key="y", modalities=["text"],
    )  # fmt: skip
    assert dressed.choices == plain.choices
