"""Clones and ratings are kept, one voice for each user, and move the order of answers without breaking a rule."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from node.api.app import create_app
from node.cli import main
from node.clone import clone
from node.context import Node
from node.feedback import MAX_WORDS, THIS_MACHINE, rate, voices
from node.recommending import Shelf, stated
from recommender.hardware import described_machine
from registry.errors import BadData
from registry.paths import Ref
from registry.store import select
from registry.tables import FeedbackRow
from tests.world import adapter_bytes, make_node, put_tree

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = make_node(tmp_path / "home", "en", api_keys=["first-key-of-two", "second-key-of-two"])
    put_tree(node, "en", "en/finance", "en/law", adapters={"en/finance": adapter_bytes(1)})
    yield node
    node.close()


def order(node: Node) -> list[str]:
    need = stated({"languages": ("en",), "license": "Apache-2.0"})
    machine = described_machine(device="cpu", memory_gb=16)
    return [one.candidate.id for one in Shelf(node).recommend(need, machine, 5, NOW, tree_only=True).answers]


def test_ratings_move_the_order_and_the_last_word_counts(node: Node) -> None:
    rate(node, "en/law", 5, "finds the article", voice=THIS_MACHINE, now=NOW)
    assert order(node).index("en/law") < order(node).index("en")
    rate(node, "en/law", 1, "", voice=THIS_MACHINE, now=NOW)
    assert order(node).index("en/law") > order(node).index("en")
    assert [(voice.model, voice.rating) for voice in voices(node)] == [("en/law", 1)]


def test_no_number_of_voices_lets_a_model_past_a_rule(node: Node) -> None:
    for number in range(50):
        rate(node, "google/gemma-3-27b-it", 5, "", voice=f"{number:064x}", now=NOW)
    need = stated({"max_parameters_b": 0.1})
    found = Shelf(node).recommend(need, described_machine(device="cpu", memory_gb=16), 100, NOW)
    assert found.answers
    assert all((one.candidate.parameters_b or 1) <= 0.1 for one in found.answers)


def test_who_clones_speaks_once(node: Node, tmp_path: Path) -> None:
    ref = Ref.parse("en/finance")
    for _ in range(2):
        clone(node, ref, tmp_path / "clone", now=NOW)
    clone(node, ref, tmp_path / "other", now=NOW)
    with node.store.read() as session:
        row = session.scalars(select(FeedbackRow)).one()
    assert (row.model, row.kind, row.rating, row.voice) == ("en/finance", "clone", None, "")
    assert row.release is not None


@pytest.mark.parametrize(
    ("model", "rating", "words"), [("en/none", 3, ""), ("en", 6, ""), ("en", 3, "x" * MAX_WORDS + "x")]
)
def test_what_is_no_rating_is_refused(node: Node, model: str, rating: int, words: str) -> None:
    with pytest.raises(BadData) as refused:
        rate(node, model, rating, words, voice=THIS_MACHINE, now=NOW)
    assert refused.value.hint
    assert voices(node) == []


def test_each_holder_of_a_key_has_a_voice(node: Node, serve: Callable[..., str]) -> None:
    url = serve(create_app(node))
    for key, rating in (("first-key-of-two", 4), ("second-key-of-two", 2), ("second-key-of-two", 5)):
        reply = httpx.post(
            f"{url}/v1/ratings",
            json={"model": "en/law", "rating": rating, "why": "so"},
            headers={"authorization": f"Bearer {key}"},
        )
        assert reply.status_code == 200, reply.text
    assert sorted(voice.rating or 0 for voice in voices(node)) == [4, 5]
    assert httpx.post(f"{url}/v1/ratings", json={"model": "en/law", "rating": 4}).status_code == 401
    headers = {"authorization": "Bearer first-key-of-two"}
    refused = httpx.post(f"{url}/v1/ratings", json={"model": "en/law", "rating": 9}, headers=headers)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "rating")


def test_the_command_keeps_a_rating(node: Node, tmp_path: Path) -> None:
    node.close()
    arguments = ["rate", "en/law", "4", "--why", "good", "--home", str(tmp_path / "home"), "--json"]
    done = CliRunner().invoke(main, arguments)
    assert (done.exit_code, json.loads(done.stdout)["rating"]) == (0, 4)
