from __future__ import annotations

import pytest

from registry.errors import BadData
from registry.rows import Row
from sync.prompt import Frame, conversation, frame_of, prompt_text, system_turn, templated
from tests.node.tiny_models import tokenizer

NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<{{ message['role'] }}>{{ message['content'] }}<end>"
    "{% endfor %}{% if add_generation_prompt %}<model>{% endif %}"
)


@pytest.mark.parametrize(("task", "said"), [("", "en/health"), ("intent", "en/health intent")])
def test_the_system_turn_names_the_path_and_the_task(task: str, said: str) -> None:
    assert system_turn("en/health", task) == said
    assert conversation(Row("hello", "x", task=task), "en/health")[0] == {"role": "system", "content": said}


def test_a_conversation_ends_before_the_answer() -> None:
    row = Row("and now?", "secret", history=(("user", "hi"), ("assistant", "ho")))
    assert [(turn["role"], turn["content"]) for turn in conversation(row, "en")] == [
        ("system", "en"),
        ("user", "hi"),
        ("assistant", "ho"),
        ("user", "and now?"),
    ]
    assert [turn["role"] for turn in conversation(Row("", "a story"), "en")] == ["system"]


def test_a_system_turn_of_the_row_s_own_stands_below_the_path() -> None:
    row = Row("and now?", "x", task="chat", history=(("system", "Be brief."), ("user", "hi"), ("assistant", "ho")))
    turns = conversation(row, "en")
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[0]["content"] == "en chat\n\nBe brief."
    assert prompt_text(tokenizer(), turns).count("<system>") == 1


def test_the_place_of_a_row_does_not_change_what_is_asked() -> None:
    row = Row("hi", "ho", lang="de", domain="law", group="7")
    assert conversation(row, "en") == conversation(Row("hi", "ho"), "en")


def test_a_template_with_a_system_role_gets_it() -> None:
    turns = conversation(Row("hi", "ho"), "en")
    assert prompt_text(tokenizer(), turns) == "<system>en<user>hi<assistant>"
    assert templated(tokenizer(), turns, asks=False) == "<system>en<user>hi"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (Row("hi", "ho"), "<user>en\n\nhi<end><model>"),
        (Row("", "a story"), "<user>en<end><model>"),
        (
            Row("b", "c", history=(("user", "a"), ("assistant", "x"))),
            "<user>en\n\na<end><assistant>x<end><user>b<end><model>",
        ),
        (Row("b", "c", history=(("assistant", "x"),)), "<user>en<end><assistant>x<end><user>b<end><model>"),
    ],
)
def test_a_template_without_a_system_role_gets_it_in_the_first_user_turn(row: Row, said: str) -> None:
    made = tokenizer().__class__(
        tokenizer_object=tokenizer().backend_tokenizer, eos_token="<end>", chat_template=NO_SYSTEM
    )
    assert prompt_text(made, conversation(row, "en")) == said


def test_turns_that_no_template_takes_are_the_data_s_fault() -> None:
    made = tokenizer().__class__(
        tokenizer_object=tokenizer().backend_tokenizer, eos_token="<end>", chat_template=NO_SYSTEM
    )
    turns = conversation(Row("b", "c", history=(("user", "a"),)), "en")
    with pytest.raises(BadData, match="does not take a row: System role not supported"):
        prompt_text(made, turns)


def test_a_frame_is_what_stands_around_the_words_of_a_request() -> None:
    frame = frame_of(tokenizer(), "en/health")
    assert frame == Frame("<system>en/health", "<user>", "<assistant>")
    row = Row("hello", "x", task="intent")
    assert f"{frame.before} intent{frame.between}hello{frame.after}" == prompt_text(
        tokenizer(), conversation(row, "en/health")
    )


def test_a_frame_without_a_system_role(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer(), "chat_template", NO_SYSTEM)
    assert frame_of(tokenizer(), "en") == Frame("<user>en", "\n\n", "<end><model>")


def test_a_template_that_changes_words_has_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    shouting = "{% for message in messages %}{{ message['content'] | upper }}{% endfor %}"
    monkeypatch.setattr(tokenizer(), "chat_template", shouting)
    with pytest.raises(BadData, match="changes the words"):
        frame_of(tokenizer(), "en")
