"""The scoring of understanding: what is found, invented and missed; and that our parser keeps what it reached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assistant.extract import extract
from tests.benchmarks.assistant.baselines import nothing
from tests.benchmarks.assistant.scores import SLOTS, compare, joint_accuracy, slot_f1, with_interval

OWN = Path(__file__).parent / "assistant" / "own.jsonl"


def test_a_wrong_value_is_invented_and_missed() -> None:
    gold = nothing([]) | {"task": "translation", "memory_gb": 8, "languages": ["en", "de"]}
    found = nothing([]) | {"task": "summarization", "memory_gb": 8.3, "languages": ("de", "en"), "device": "cpu"}
    one = compare(found, gold, [])
    assert (one.found, one.invented, one.missed) == ({"memory_gb", "languages"}, {"task", "device"}, {"task"})
    assert slot_f1([one]) == pytest.approx(2 * 2 / (2 * 2 + 3))
    assert joint_accuracy([one]) == 0


def test_nothing_said_and_nothing_found_is_right() -> None:
    one = compare(nothing([]), dict.fromkeys(SLOTS), ["german"])
    assert one.whole
    assert one.language == "german"
    figure = with_interval(joint_accuracy, [one] * 4)
    assert (figure.low, figure.value, figure.high) == (1, 1, 1)


def test_our_own_dialogues_are_understood() -> None:
    rows = [json.loads(line) for line in OWN.read_text("utf-8").splitlines()]
    outcomes = [compare(extract(row["turns"]).rules(), row["gold"], row["tags"]) for row in rows]
    assert slot_f1(outcomes) >= 0.98
    assert joint_accuracy(outcomes) >= 0.95
