"""What is said in every language: the same sentences, with the same places, and in the language of the user."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from assistant.dialogue import step
from assistant.extract import extract
from assistant.hearing import hear
from assistant.jobs import told
from assistant.lexicon import load
from assistant.questions import questions
from assistant.speech import SPOKEN
from assistant.state import State
from assistant.voice import language_after, voice
from recommender.constraints import Constraints, Stated
from recommender.own_scores import Difference, OwnScore
from recommender.quality import GRADES
from recommender.rules import MACHINE
from recommender.words import (
    rule_in_words,
    scales_in_words,
    score_in_words,
    trade_in_words,
    unknown_in_words,
    voices_in_words,
    way_in_words,
)
from tests.assistant.test_dialogue import SHELF, advisor
from tests.world import utc_now

PLACES = re.compile(r"\{(\w+)\}")
OTHERS = [language for language in SPOKEN if language != "en"]
VALUES: dict[str, Any] = {
    "task": "summarization", "languages": ("de", "fr"), "domain": "health", "subdomain": "oncology", "device": "cuda",
    "memory_gb": 8.0, MACHINE: 12.5, "max_parameters_b": 7.0, "min_context_tokens": 131_072, "min_tokens_per_s": 15.0,
    "license": "Apache-2.0", "local_only": True, "finetune": True, "max_usd_per_mtok": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("language", OTHERS)
def test_every_language_has_every_sentence_with_the_same_places(language: str) -> None:
    english, other = load("say_en"), load(f"say_{language}")
    for section in ("sentences", "phrases"):
        assert other[section].keys() == english[section].keys()
        for key, sentence in english[section].items():
            assert sorted(PLACES.findall(other[section][key])) == sorted(PLACES.findall(sentence)), key
            assert other[section][key].strip() == other[section][key] != ""
    assert other["questions"].keys() == {one.name for one in questions()}
    for one in questions():
        assert len(other["questions"][one.name].get("says", [])) == (len(one.options) if one.listed else 0), one.name


def test_whatever_the_recommender_says_has_its_phrase() -> None:
    """In German, where no phrase is the English one; the other languages have the same phrases."""
    said = [rule_in_words(slot, value) for slot, value in VALUES.items()]
    said += [rule_in_words("license", "commercial"), *map(unknown_in_words, VALUES)]
    said += [
        way_in_words(slot, value, needed)
        for slot, value in VALUES.items()
        for needed in (None, 3.0)
        if slot != "license" or needed is None
    ]
    measured = OwnScore("a", "b", "intent", ("en",), ("finance/cards",), 81.0, 300, True, "", utc_now())
    others = replace(measured, here=False, source="the parent", rows=0, task="", languages=(), domains=())
    said += [score_in_words(one) for one in (measured, replace(measured, rows=0), others, replace(others, rows=5))]
    said += [scales_in_words("a", "b", both) for both in (None, Difference(1.5, -0.5, 3.5, 200))]
    said += [voices_in_words("a", -1.2), f"a: {score_in_words(measured)}"]
    said += [trade_in_words(2.1, -3.0, 20.0), trade_in_words(0.0, np.nan, 0.1), *GRADES]
    quiet = {unknown_in_words(slot) for slot in ("device", "local_only")}  # never unknown
    found = {text: voice("de").phrase(text) for text in said if text not in quiet}
    assert [text for text, there in found.items() if text == there] == []


def test_a_phrase_keeps_its_names_and_numbers() -> None:
    german = voice("de")
    assert german.phrase("9.8 GB of memory (asked: 8.0 GB of memory)") == "9.8 GB Speicher (gewünscht: 8.0 GB Speicher)"
    assert german.phrase("2.1 points less, 20.0 tokens/s more") == "2.1 Punkte weniger, 20.0 Tokens/s mehr"
    assert german.phrase("over unfree: it misses: licence MIT; runs here, not rented").startswith(
        "vor unfree: ihm fehlt"
    )
    assert german.phrase("something new") == "something new"
    assert voice("en").phrase("its size") == "its size"
    assert voice("tlh") is not None
    assert voice("tlh").language == "en"


OPENINGS = {
    "en": "I need a model that summarises our letters, on a laptop",
    "de": "Wir brauchen ein Modell, das unsere Briefe zusammenfasst, auf einem Laptop",
    "es": "Necesitamos un modelo para resumir nuestras cartas en un portátil",
    "fr": "Nous cherchons un modèle pour résumer nos lettres sur un ordinateur portable",
    "pl": "Potrzebujemy modelu, który streszcza nasze listy, na laptopie",
    "pt": "Precisamos de um modelo para resumir as nossas cartas num laptop",
    "bn": "আমাদের চিঠি সারাংশ করার জন্য একটা মডেল দরকার, ল্যাপটপে",
    "zh": "我们需要一个在笔记本电脑上总结信件的模型",
}


@pytest.mark.parametrize("language", SPOKEN)
def test_a_conversation_goes_on_in_the_language_that_it_began_in(language: str) -> None:
    adviser = advisor(*SHELF)
    state, reply = step(State(), OPENINGS[language], adviser, extract)
    assert state.language == language
    asked = 0
    while reply.question:
        assert reply.text.startswith(voice(language).ask(next(q for q in questions() if q.name == reply.question)))
        state, reply = step(state, "16" if reply.question == "memory" else "skip", adviser, extract)
        asked += 1
        assert asked < 10
    assert reply.text.startswith(
        voice(language).say("recommend", model=state.current, facts="").removesuffix(".").strip(" :：।。")
    )
    assert reply.text.endswith(voice(language).say("offer_acts"))
    _, why = step(state, "why?", adviser, extract)
    if language != "en":
        assert "expected" not in why.text
        assert "meet every rule" not in why.text


def test_banglish_is_answered_in_bengali_and_a_number_changes_no_language() -> None:
    assert language_after("amader ekta model lagbe, banglay likhte parbe", "") == "bn"
    assert language_after("2", "de") == "de"
    assert language_after("Qwen3-8B", "fr") == "fr"
    assert language_after("ok", "") == ""
    assert (language_after("Hola", ""), language_after("Hola", "de")) == ("es", "de")
    assert language_after("please answer in English, I do not understand that", "de") == "en"


@pytest.mark.parametrize("language", SPOKEN)
def test_an_option_is_chosen_by_its_words_in_the_users_language(language: str) -> None:
    says = load(f"say_{language}").get("questions", {}).get("machine", {}).get("says")
    label = says[1] if says else next(q for q in questions() if q.name == "machine").options[1].says
    state, _ = step(State(asked=("machine",), pending="machine", language=language), label, advisor(*SHELF), extract)
    assert state.need.device == Stated(value="cuda") or state.need.device.value == "cuda"  # type: ignore[union-attr]


@pytest.mark.parametrize("language", SPOKEN)
def test_a_job_is_told_of_in_every_state(language: str) -> None:
    job: dict[str, Any] = {"id": 7, "state": "queued", "progress": None, "result": None, "error": None, "hint": ""}
    progress = {"stage": "train", "done": 3, "total": 9, "seconds_left": 12.0, "figures": {}}
    tongue = voice(language)
    said = [
        told(None, tongue),
        *(told(job | {"state": state}, tongue) for state in ("queued", "running", "cancelled")),
        told(job | {"state": "running", "progress": progress}, tongue),
        told(job | {"state": "done", "result": {"folder": "/x"}}, tongue),
        told(job | {"state": "failed", "error": "no disk", "hint": "node doctor"}, tongue),
    ]
    assert len({*said}) == len(said)
    assert all("7" in text for text in said[1:])
    assert "3" in said[4]
    assert "12" in said[4]
    assert "/x" in said[5]
    assert "no disk" in said[6]
    assert Constraints() == State().need


@pytest.mark.parametrize("said", ["none", "keine", "ninguno", "aucun", "żadne", "nenhum", "কোনোটিই না", "都没有"])
def test_none_of_them_is_said_in_every_language(said: str) -> None:
    heard = hear(State(asked=("conditions",), pending="conditions"), said, extract)
    assert heard.answered
    assert heard.state.need == Constraints()
