from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.soak.__main__ import Plan, own_server, soak, unproven
from tests.soak.clients import KINDS
from tests.soak.questions import Question
from tests.soak.watch import MB, problems

Served = tuple[str, int, list[Question]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with own_server(tmp_path_factory.mktemp("soak")) as served:
        yield served


def test_clients_of_every_temper_leave_nothing_behind(served: Served) -> None:
    url, pid, questions = served
    result = asyncio.run(soak(url, pid, questions, Plan(seconds=6, clients=20, pause_every_s=3)))
    assert result["problems"] == []
    assert len(result["counts"]) > len(KINDS) // 2
    assert len(result["moments"]) >= 2
    assert all(moment["used"] == 0 for moment in result["moments"])
    assert result["pressure"].keys() == {"refusals", "preemptions", "evictions"}
    assert len(unproven(result)) < len(result["pressure"])  # some seconds of a busy machine wear out something


def test_a_wrong_answer_is_noticed(served: Served) -> None:
    url, pid, questions = served
    wrong = [replace(question, answer=f"{question.answer}!") for question in questions]
    result = asyncio.run(soak(url, pid, wrong, Plan(seconds=1, clients=4, seed=1)))
    assert any(problem.startswith("wrong answer of") for problem in result["problems"])


REST: dict[str, Any] = {
    "num_requests_running": 0.0,
    "num_requests_waiting": 0.0,
    "kv_cache_usage_perc": 0.0,
    "free": 3,
    "cached": 5,
    "used": 0,
    "total": 8,
    "open": 0,
    "answers": 0,
    "requests": 0,
    "news": 0,
    "running": 0,
    "waiting": 0,
    "tasks": 3,
    "files": 9,
    "rss": 500 * MB,
}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"num_requests_waiting": 1.0}, "num_requests_waiting"),
        ({"kv_cache_usage_perc": 0.1}, "kv_cache_usage_perc"),
        ({"used": 1, "free": 2}, "used"),
        ({"free": 2}, "pages are lost"),
        ({"open": 1}, "open"),
        ({"tasks": 30}, "tasks"),
        ({"files": 90}, "files"),
        ({"rss": 900 * MB}, "memory"),
    ],
)
def test_what_is_left_behind_is_noticed(change: dict[str, Any], word: str) -> None:
    assert problems([REST] * 6) == []
    assert problems([REST, REST, REST, *[REST | change] * 3])[0].startswith(word)


def test_clients_may_keep_their_connections() -> None:
    assert problems([REST, REST | {"files": 29}], connections=20) == []
