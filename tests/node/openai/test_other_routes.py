from __future__ import annotations

import math

import openai
import pytest

from node.generate import generate
from registry.paths import Ref
from tests.node.openai.conftest import World

CARDS = "en/finance/cards"


def test_models_are_listed_with_their_place_in_the_tree(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert next(iter(listed)) == "master"
    cards = listed[CARDS]
    assert (cards.object, cards.owned_by) == ("model", "banyan")
    assert cards.model_extra["parent"] == "en/finance@v1"
    assert (cards.model_extra["path"], cards.model_extra["root"]) == (CARDS, "banyan/seedling")
    assert listed["master"].model_extra["parent"] is None


@pytest.mark.parametrize("name", [CARDS, "en/finance@v1", "banyan/en.finance", "master"])
def test_a_model_is_found_by_any_of_its_names(client: openai.OpenAI, name: str) -> None:
    model = client.models.retrieve(name)
    assert model.id == name.replace("banyan/", "").replace(".", "/")
    assert len(model.model_extra["release"]) == 64


def test_a_completion_goes_on_with_text_or_tokens(world: World, client: openai.OpenAI) -> None:
    tokenizer = next(iter(world.models.engines.values())).tokenizer
    given = "hello there"
    ids = tokenizer(given)["input_ids"]
    by_text = client.completions.create(model="en", prompt=given, temperature=0, max_tokens=5)
    by_ids = client.completions.create(model="en", prompt=ids, temperature=0, max_tokens=5)
    assert by_text.choices[0].text == by_ids.choices[0].text != ""
    several = client.completions.create(model="en", prompt=[given, "hello"], n=2, temperature=0, max_tokens=5)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.choices[0].text == several.choices[1].text == by_text.choices[0].text
    assert several.usage.completion_tokens == 20
    mixed = client.completions.create(model="en", prompt=[ids, ids], temperature=0, max_tokens=5)
    assert [choice.text for choice in mixed.choices] == [by_text.choices[0].text] * 2


def test_an_echo_scores_the_prompt(client: openai.OpenAI) -> None:
    """With max_tokens 0, what a prompt is worth to the model is all that is asked."""
    reply = client.completions.create(model="en", prompt="hello there", echo=True, max_tokens=0, logprobs=1)
    [choice] = reply.choices
    assert choice.text == "hello there"
    scores = choice.logprobs
    assert "".join(scores.tokens) == "hello there"
    assert scores.token_logprobs[0] is None
    assert all(score < 0 for score in scores.token_logprobs[1:])
    assert next(choice.text[at:] for at in scores.text_offset) == "hello there"
    assert reply.usage.completion_tokens == 0
    longer = client.completions.create(
        model="en", prompt="hello there", echo=True, max_tokens=2, logprobs=0, temperature=0
    ).choices[0]
    assert longer.text.startswith("hello there")
    assert longer.logprobs.token_logprobs[1:3] == scores.token_logprobs[1:]
    assert len(longer.logprobs.tokens) == len(scores.tokens) + 2


def test_a_stream_of_several_prompts_is_the_whole_reply_in_pieces(client: openai.OpenAI) -> None:
    asked = {"model": "en", "prompt": ["hello", "where"], "temperature": 0, "max_tokens": 6, "logprobs": 0}
    whole = client.completions.create(**asked)
    texts, offsets = ["", ""], [[], []]
    usage = None
    for piece in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for choice in piece.choices:
            texts[choice.index] += choice.text
            if choice.logprobs:
                offsets[choice.index] += choice.logprobs.text_offset
        usage = piece.usage or usage
    assert texts == [choice.text for choice in whole.choices]
    assert offsets == [choice.logprobs.text_offset for choice in whole.choices]
    assert usage == whole.usage


def test_embeddings_come_as_numbers_and_as_bytes(client: openai.OpenAI) -> None:
    plain = client.embeddings.create(model=CARDS, input=["my card", "my flight"], encoding_format="float")
    packed = client.embeddings.create(model=CARDS, input=["my card", "my flight"], encoding_format="base64")
    unpacked = client.embeddings.create(model=CARDS, input=["my card", "my flight"])  # the client asks for base64
    assert isinstance(packed.data[0].embedding, str)
    for one, other in zip(plain.data, unpacked.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert math.hypot(*one.embedding) == pytest.approx(1, abs=1e-3)
    assert plain.data[0].embedding != plain.data[1].embedding
    assert plain.usage.prompt_tokens > 2


def test_a_response_is_the_answer_of_the_path(world: World, client: openai.OpenAI) -> None:
    reply = client.responses.create(model=CARDS, input="my card was stolen", temperature=0)
    assert reply.output_text == generate(world.node, Ref.parse(CARDS), "my card was stolen")["output"]
    assert (reply.status, reply.output[0].role) == ("completed", "assistant")
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    cut = client.responses.create(model=CARDS, input="my card was stolen", temperature=0, max_output_tokens=2)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    instructed = client.responses.create(
        model=CARDS, instructions="intent", input=[{"role": "user", "content": "my card was stolen"}], temperature=0,
        store=True,
    )  # fmt: skip
    expected = generate(world.node, Ref.parse(CARDS), "my card was stolen", task="intent")["output"]
    assert instructed.output_text == expected


def test_the_events_of_a_response_come_in_order(client: openai.OpenAI) -> None:
    whole = client.responses.create(model=CARDS, input="my card was stolen", temperature=0)
    events = list(client.responses.create(model=CARDS, input="my card was stolen", temperature=0, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text
    assert events[0].response.output == []
    assert events[0].response.status == "in_progress"


def test_a_response_calls_a_function_and_goes_on(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    tool = {"type": "function", "name": "count", "parameters": schema, "strict": True}
    with client.responses.stream(model="en", input="count", tools=[tool], tool_choice="required") as stream:
        kinds = {event.type for event in stream}
        [call] = stream.get_final_response().output
    assert {"response.function_call_arguments.delta", "response.function_call_arguments.done"} <= kinds
    assert (call.type, call.name) == ("function_call", "count")
    history = [
        {"role": "user", "content": "count"},
        call.model_dump(exclude_none=True, exclude={"parsed_arguments"}),
        {"type": "function_call_output", "call_id": call.call_id, "output": "3"},
    ]
    after = client.responses.create(model="en", input=history, tools=[tool], tool_choice="none", max_output_tokens=3)
    assert after.output[0].type == "message"


def test_a_response_follows_a_schema_and_shows_logprobs(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    wanted = {"format": {"type": "json_schema", "name": "n", "schema": schema}}
    reply = client.responses.create(
        model="en", input="count", text=wanted, include=["message.output_text.logprobs"], top_logprobs=1
    )
    assert reply.output_text.replace(" ", "") in ('{"n":1}', '{"n":2}')
    part = reply.output[0].content[0]
    assert "".join(token.token for token in part.logprobs) == reply.output_text
