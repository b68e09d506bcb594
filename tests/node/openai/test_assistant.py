"""The model `assistant` with the real client: a conversation from the first words to a job."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from assistant.questions import questions
from assistant.voice import voice
from node.api.app import create_app
from node.context import open_node
from node.jobs import queue
from node.serving.models import Models
from tests.node.openai.conftest import World, listening

OPENING = "I need a model for text generation about banking, in English"
TREE = {"models": "tree"}


def user(*texts: str) -> list[Any]:
    return [{"role": "user", "content": text} for text in texts]


def say(client: openai.OpenAI, *texts: str, **options: Any) -> str:
    options.setdefault("metadata", TREE)
    reply = client.chat.completions.create(model="assistant", messages=user(*texts), **options)
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens > reply.usage.completion_tokens > 0
    content = reply.choices[0].message.content
    assert content
    return content


def until_recommended(client: openai.OpenAI) -> list[str]:
    """What a user says until a model is recommended."""
    texts = [OPENING]
    while not say(client, *texts).startswith("I recommend"):
        texts.append("I don't know")
        assert len(texts) < 10
    return texts


def test_it_is_among_the_models(client: openai.OpenAI) -> None:
    assert "assistant" in [model.id for model in client.models.list()]
    assert client.models.retrieve("assistant").id == "assistant"


def test_a_conversation_in_messages_comes_to_a_job_after_a_plain_yes(world: World, client: openai.OpenAI) -> None:
    texts = until_recommended(client)
    assert "Shall I?" in say(client, *texts, "clone it")
    before = len(queue.jobs(world.node.store, None))
    assert "Nothing was started" in say(client, *texts, "clone it", "no")
    assert len(queue.jobs(world.node.store, None)) == before
    started = say(client, *texts, "clone it", "yes")
    (job, *_) = queue.jobs(world.node.store, "")
    assert started == f"Job {job.id} was queued. Ask me how far it is."
    assert job.kind == "clone"
    assert say(client, *texts, "clone it", "yes") == started  # asked again, as a client does that lost the answer
    assert len(queue.jobs(world.node.store, None)) == before + 1
    queued = say(client, *texts, "clone it", "yes", "how far is it?")
    assert queued == f"Job {job.id} waits for its turn."
    assert len(queue.jobs(world.node.store, None)) == before + 1  # a yes further up starts nothing again
    assert "I only help" in say(client, *texts, "what is the capital of France?")
    assert "meet every rule" in say(client, *texts, "why?")


def test_a_yes_counts_for_what_was_offered_alone(world: World, client: openai.OpenAI) -> None:
    """The catalogue may change between two messages: then the words lead to another model than the user agreed to."""
    texts = until_recommended(client)
    offer = say(client, *texts, "evaluate it with rows.jsonl")

    def agree(seen: str) -> str:
        messages = [*user(*texts, "evaluate it with rows.jsonl"), {"role": "assistant", "content": seen}, *user("yes")]
        reply = client.chat.completions.create(model="assistant", messages=messages, metadata=TREE)
        return reply.choices[0].message.content or ""

    assert agree(offer.replace("Evaluate en", "Evaluate fr")) == offer
    assert agree(offer).startswith("That did not start: there is no file rows.jsonl in the folder data/")


def test_in_a_stream_it_says_the_same_with_usage(client: openai.OpenAI) -> None:
    whole = say(client, OPENING)
    chunks = list(
        client.chat.completions.create(
            model="assistant",
            messages=user(OPENING),
            metadata=TREE,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == whole
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(whole.split())


def test_it_answers_in_the_language_of_the_user(client: openai.OpenAI) -> None:
    german = say(client, "Ich brauche bitte ein Modell für unsere Texte")
    assert german in [voice("de").ask(question) for question in questions()]


def test_a_session_is_gone_on_with_by_the_last_message(world: World, client: openai.OpenAI) -> None:
    named = {"metadata": TREE | {"session": "letters"}}
    assert say(client, OPENING, **named).startswith("I recommend en")
    assert "meet every rule" in say(client, "this is not read", "why?", **named)
    listed = httpx.get(f"{world.api}/sessions").json()["sessions"]
    assert [one["name"] for one in listed] == ["letters"]
    assert httpx.delete(f"{world.api}/sessions/letters").status_code == 200
    assert httpx.delete(f"{world.api}/sessions/letters").status_code == 404


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"n": 2}, "n"),
        ({"stop": "x"}, "stop"),
        ({"logprobs": True}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"metadata": {"session": "../x"}}, "metadata.session"),
        ({"metadata": {"models": "some"}}, "metadata.models"),
        ({"messages": [{"role": "system", "content": "be nice"}]}, "messages"),
        ({"messages": user("x" * 50_000)}, "messages"),
    ],
)
def test_what_it_does_not_support_is_refused_by_name(
    client: openai.OpenAI, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"model": "assistant", "messages": user(OPENING)} | options)
    assert refused.value.param == field


def test_how_tokens_are_drawn_has_no_effect_and_a_limit_of_words_has(client: openai.OpenAI) -> None:
    whole = say(client, OPENING)
    assert say(client, OPENING, temperature=1.5, seed=3, top_p=0.1) == whole
    cut = client.chat.completions.create(
        model="assistant", messages=user(OPENING), metadata=TREE, max_completion_tokens=4
    )
    assert (cut.choices[0].finish_reason, cut.choices[0].message.content) == ("length", " ".join(whole.split()[:4]))


def test_it_is_no_model_for_continuations_and_vectors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="only answers chats"):
        client.completions.create(model="assistant", prompt="x")
    with pytest.raises(openai.BadRequestError, match="only answers chats"):
        client.embeddings.create(model="assistant", input="x")


def test_a_job_is_its_askers_alone(world: World) -> None:
    settings = world.node.settings.model_copy(update={"api_keys": ("key-of-ann", "key-of-bob")})
    keyed = open_node(settings)
    models = Models(keyed)
    try:
        with listening(create_app(keyed, models)) as url:
            ann, bob = (openai.OpenAI(base_url=f"{url}/v1", api_key=f"key-of-{name}") for name in ("ann", "bob"))
            texts = until_recommended(ann)
            started = say(ann, *texts, "clone it", "yes")
            job = int("".join(char for char in started if char.isdigit()))
            assert say(ann, f"how far is job {job}?") == f"Job {job} waits for its turn."
            assert say(bob, f"how far is job {job}?").startswith("There is no such job")
    finally:
        models.close()
        keyed.close()
