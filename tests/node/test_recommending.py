"""`node recommend` and /v1/recommend over the tree of a node."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import negative_data_rejection, response_schema_conformance

from node.api.app import create_app
from node.cli import main
from node.context import Node
from node.recommending import stated
from recommender.rank import CAUTION
from registry.errors import BadData
from tests.world import make_node, put_tree

CHECKS = [not_a_server_error, negative_data_rejection, response_schema_conformance]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def node(home: Path) -> Iterator[Node]:
    node = make_node(home, "en", "en/finance")
    put_tree(node, "en", "en/finance")
    yield node
    node.close()


@pytest.fixture
def url(node: Node, serve: Callable[..., str]) -> str:
    return serve(create_app(node))


def ask(url: str, **body: Any) -> dict[str, Any]:
    reply = httpx.post(f"{url}/v1/recommend", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_the_release_of_the_very_place_comes_first(url: str) -> None:
    found = ask(url, languages=["en"], domain="finance", tree_only=True)
    assert found["answers"][0]["model"] == "en/finance"
    assert found["answers"][0]["source"] == "tree"
    assert found["considered"] >= found["survivors"] >= len(found["answers"]) > 0
    assert len(ask(url, count=1)["answers"]) == 1


def test_models_of_the_shipped_tables_are_recommended_with_what_is_expected_of_them(url: str) -> None:
    found = ask(url, task="summarization", languages=["de"], memory_gb=8, license="commercial")
    assert found["considered"] > 1_000
    for answer in found["answers"]:
        assert answer["source"] == "table"
        assert answer["commercial"] is True
        assert answer["memory_gb"] <= 8
        assert answer["low"] <= answer["quality"] <= answer["high"]
        assert answer["grade"]
    scores = [one["quality"] - CAUTION * (one["quality"] - one["low"]) for one in found["answers"]]
    assert scores == pytest.approx(sorted(scores, reverse=True))


def test_nothing_that_meets_every_rule_names_the_rule(url: str) -> None:
    found = ask(url, license="CC-BY-NC-4.0", tree_only=True)
    assert found["answers"] == []
    assert found["conflicts"] == [["licence CC-BY-NC-4.0"]]
    assert found["ways_out"][0]["takes"] == ["without: licence CC-BY-NC-4.0"]


def test_words_are_understood_and_options_win_over_them(url: str) -> None:
    found = ask(url, text="Summarise English letters on my RTX 3060 with 12 GB, Apache 2.0 only")
    assert "does summarization" in found["asked"]
    assert "licence Apache-2.0" in found["asked"]
    assert found["machine"]["name"] == "NVIDIA GeForce RTX 3060"
    assert found["answers"]
    other = ask(url, text="Summarise English letters, Apache 2.0 only", license="MIT")
    assert "licence MIT" in other["asked"]
    assert "licence Apache-2.0" not in other["asked"]


def test_a_wish_may_be_missed(url: str) -> None:
    first = ask(url, license="CC-BY-NC-4.0", wishes=["license"], tree_only=True)["answers"][0]
    assert first["missed"] == ["licence CC-BY-NC-4.0"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"memory_gb": -1}, "memory_gb"),
        ({"memory_gb": "8"}, "memory_gb"),
        ({"task": "cooking"}, "task"),
        ({"colour": "blue"}, "colour"),
        ({"count": 0}, "count"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(url: str, body: dict[str, Any], field: str) -> None:
    reply = httpx.post(f"{url}/v1/recommend", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == field


def test_an_unknown_machine_and_an_unsaid_wish_are_refused(url: str) -> None:
    for body in ({"machine": "abacus"}, {"wishes": ["memory_gb"]}):
        reply = httpx.post(f"{url}/v1/recommend", json=body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "bad_data")


@pytest.mark.parametrize("mode", GenerationMode)
def test_the_interface_keeps_to_its_document(url: str, mode: GenerationMode) -> None:
    operation = schemathesis.openapi.from_url(f"{url}/openapi.json")["/v1/recommend"]["POST"]

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask_anything(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS)

    ask_anything()


def run(home: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["recommend", "--home", str(home), *arguments])
    return done.exit_code, done.stdout


def test_the_command_says_what_fits_and_why(node: Node, home: Path) -> None:
    node.close()
    code, said = run(home, "--language", "en", "--domain", "finance", "--memory-gb", "8", "--tree")
    assert code == 0
    assert "on " in said
    assert "en/finance" in said.splitlines()[4]
    assert "models meet every rule" in said


def test_the_command_says_what_would_help(node: Node, home: Path) -> None:
    node.close()
    _, said = run(home, "--memory-gb", "0.001", "--machine", "RTX 3060 12 GB", "--tree")
    assert "none of" in said
    assert "met by none: at most 0.001 GB of memory" in said
    assert "what would help" in said
    _, as_json = run(home, "--memory-gb", "0.001", "--tree", "--json")
    assert json.loads(as_json)["ways_out"][0]["slots"] == ["memory_gb"]


def test_a_need_that_does_not_fit_a_slot_names_it() -> None:
    with pytest.raises(BadData, match="memory_gb"):
        stated({"memory_gb": -3})
    assert stated({"memory_gb": 8.0, "task": None}, ["memory_gb"]).memory_gb.hard is False  # type: ignore[union-attr]
