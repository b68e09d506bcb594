from __future__ import annotations

import json
from typing import Any

import pytest

from node.serving.errors import Refused
from node.serving.prompts import TOOLS_TEXT, Prompts
from node.serving.requests import ChatRequest, Message, Tool, ToolCall
from tests.node.tiny_models import tokenizer as tiny_tokenizer

NATIVE = (
    "{% if tools %}[{% for tool in tools %}{{ tool.function.name }}{% endfor %}]{% endif %}"
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}"
    "{% for call in message.tool_calls or [] %}({{ call.function.name }} {{ call.function.arguments | tojson }})"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
WEATHER = Tool("weather", "the sky", {"type": "object"})
USER = Message("user", "hi")


def prompts(template: str | None = None, context: int = 1000) -> Prompts:
    from copy import deepcopy

    tokenizer: Any = deepcopy(tiny_tokenizer())
    tokenizer.chat_template = template or tokenizer.chat_template
    return Prompts(tokenizer, context)


def text(made: Prompts, *messages: Message, path: str = "en/a", as_json: bool = False, **more: Any) -> str:
    ids = made.chat(path, ChatRequest("en/a", messages, **more), tools_as_json=as_json)
    return str(made._tokenizer.decode(ids))


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([USER], "<system>en/a<user>hi<assistant>"),
        ([Message("system", "intent"), USER], "<system>en/a intent<user>hi<assistant>"),
        ([Message("system", "a"), Message("system", "b"), USER], "<system>en/a a\n\nb<user>hi<assistant>"),
        (
            [USER, Message("assistant", "yes"), Message("system", "later"), USER],
            "<system>en/a<user>hi<assistant>yes<system>later<user>hi<assistant>",
        ),
    ],
)
def test_the_path_stands_before_what_the_asker_says_to_the_system(messages: list[Message], expected: str) -> None:
    assert text(prompts(), *messages) == expected


def test_a_template_that_knows_no_tools_gets_them_in_the_system_turn() -> None:
    shown = text(prompts(), USER, tools=(WEATHER,))
    system, _, rest = shown.removeprefix("<system>en/a\n\n").partition("<user>")
    head, tool = system.split("\n")
    assert head == TOOLS_TEXT
    assert json.loads(tool) == {"name": "weather", "description": "the sky", "parameters": {"type": "object"}}
    assert rest == "hi<assistant>"
    assert text(prompts(), USER, tools=(WEATHER,), tool_choice="none") == text(prompts(), USER)


def test_a_template_that_knows_tools_shows_them_itself() -> None:
    assert text(prompts(NATIVE), USER, tools=(WEATHER,)) == "[weather]<system>en/a<user>hi<assistant>"
    assert TOOLS_TEXT in text(prompts(NATIVE), USER, tools=(WEATHER,), as_json=True)


def test_calls_of_the_past_are_shown_in_the_form_that_is_asked_for() -> None:
    called = Message("assistant", "", tool_calls=(ToolCall("1", "weather", '{"city":"Bern"}'),))
    past = (USER, called, Message("tool", "sun", tool_call_id="1"))
    call = '{"name": "weather", "arguments": {"city": "Bern"}}'
    assert text(prompts(), *past) == f"<system>en/a<user>hi<assistant>{call}<tool>sun<assistant>"
    native = text(prompts(NATIVE), *past, tools=(WEATHER,))
    assert native == '[weather]<system>en/a<user>hi<assistant>(weather {"city": "Bern"})<tool>sun<assistant>'


def test_what_a_template_refuses_is_the_fault_of_the_messages() -> None:
    with pytest.raises(Refused) as refused:
        text(prompts("{{ raise_exception('users only') }}"), USER)
    assert refused.value.field == "messages"
    assert "users only" in refused.value.message


def test_a_text_is_refused_by_its_tokens_and_a_very_long_one_uncounted() -> None:
    made = prompts(context=10)
    assert len(made.tokens("x" * 9, "prompt", special=False)) == 9
    with pytest.raises(Refused, match=r"has 10 tokens .* 10 tokens"):
        made.tokens("x" * 10, "prompt", special=False)
    with pytest.raises(Refused, match="at least"):
        made.tokens("x" * 1_000_000, "prompt", special=False)
    for ids in ((), (300,), (-1,)):
        with pytest.raises(Refused):
            made.check_fits(ids, "prompt")
