from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from registry.documents import CheckResult
from registry.rows import Row
from sync.checks.agreement import ASKED, check_answers, comparable
from sync.delta import Delta
from sync.model import LoadedModel, load_model
from tests.toy import SHAPES, TOOLS, held_out, learn, rows

SENDER = "en/shapes"
SWAPPED = dict(zip(SHAPES, [*list(SHAPES.values())[1:], *list(SHAPES.values())[:1]], strict=True))
SIBLINGS = [held_out(SHAPES) for _ in range(4)]


@pytest.fixture(scope="module")
def honest(toy_base: Path, toy_adapters: dict[str, Delta]) -> LoadedModel:
    return load_model(toy_base, [toy_adapters[SENDER]], "fp32")


@pytest.fixture(scope="module")
def liar(toy_base: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """It gives every answer of the others, each to the request of another one."""
    delta = learn(load_model(toy_base, [], "fp32"), SWAPPED, SENDER, tmp_path_factory.mktemp("swapped"))
    return load_model(toy_base, [delta], "fp32")


def judged(model: LoadedModel, own: Sequence[Row], others: Sequence[Sequence[Row]] = SIBLINGS) -> CheckResult:
    return check_answers(model, comparable(own, others, "seed"), SENDER, min_agreement=0.2)


def test_who_agrees_with_its_siblings_passes(honest: LoadedModel) -> None:
    found = judged(honest, rows(SHAPES))
    assert found.passed
    assert found.value == pytest.approx(1.0, abs=0.1)


def test_swapped_answers_are_seen(liar: LoadedModel) -> None:
    """C34: they are the answers that everybody gives, and no other check sees them."""
    found = judged(liar, rows(SWAPPED))
    assert not found.passed
    assert found.value == pytest.approx(0.0, abs=0.1)
    assert "at least 20 % are needed" in found.reason


@pytest.mark.parametrize(
    ("own", "others"),
    [
        (rows(SWAPPED), SIBLINGS[:3]),
        (rows(SWAPPED), [held_out(SHAPES)[:9] for _ in range(4)]),
        (rows(SWAPPED), [held_out(TOOLS) for _ in range(4)]),
        (rows({"sun": "oval"}), SIBLINGS),
        ([], SIBLINGS),
        (rows(SWAPPED), []),
    ],
    ids=["few siblings", "few requests", "of other things", "one answer alone", "nothing sent", "nobody else"],
)
def test_it_says_when_it_cannot_speak(liar: LoadedModel, own: list[Row], others: list[list[Row]]) -> None:
    """C34, C31."""
    found = judged(liar, own, others)
    assert (found.passed, found.value) == (True, None)
    assert "are needed" in found.reason


def test_of_each_sibling_some_are_asked_the_same_at_every_call() -> None:
    large = [rows(SHAPES, range(50)), held_out(SHAPES)]
    asked = comparable(rows(SHAPES), large, "seed")
    assert [len(one) for one in asked] == [ASKED, ASKED]
    assert asked == comparable(rows(SHAPES), large, "seed")
    assert asked != comparable(rows(SHAPES), large, "another")
