from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sync.answers import nucleus
from sync.delta import Delta, scaled
from sync.model import LoadedModel, load_model
from sync.sampled import sampled
from sync.score import evaluate_rows
from tests.toy import SHAPES, share

PATH = "en/shapes"

pytestmark = pytest.mark.usefixtures("careful")


@pytest.fixture(scope="module")
def asker(toy_base: Path, asking: Delta) -> LoadedModel:
    """The model of a child that has learned its prompts too."""
    return load_model(toy_base, [asking], "fp32")


def test_a_model_that_learned_its_prompts_says_them_with_its_answers(asker: LoadedModel) -> None:
    found = sampled(asker, PATH, 40, seed=1)
    assert len({row.input for row in found}) == len(found) > 25
    assert sum(row.input.split()[0] in SHAPES for row in found) > 20
    assert share(evaluate_rows(asker, found, PATH)[1]) == 1.0


def test_the_seed_decides_what_is_said(asker: LoadedModel) -> None:
    first, again, other = (sampled(asker, PATH, 20, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_what_is_known_is_not_said_again(asker: LoadedModel) -> None:
    first = sampled(asker, PATH, 20, seed=1)
    known = [replace(row, input=row.input.upper()) for row in first[:10]]
    assert not {row.input for row in sampled(asker, PATH, 20, seed=1, known=known)} & {row.input for row in first[:10]}


def test_tasks_may_be_given(asker: LoadedModel) -> None:
    assert {row.task for row in sampled(asker, PATH, 20, seed=1, tasks=["shape"])} == {"shape"}
    assert {row.task for row in sampled(asker, PATH, 20, seed=1)} == {""}


def test_none_is_wanted_none_is_said(asker: LoadedModel) -> None:
    assert sampled(asker, PATH, 0, seed=1) == []


@pytest.mark.parametrize("by", [1e4, 1e30, float("nan")])
def test_a_model_that_talks_nonsense_teaches_nothing(by: float, toy_base: Path, asking: Delta) -> None:
    """Its prompts do not end, or it is not sure of its answers; numbers that are none do no harm."""
    broken = load_model(toy_base, [scaled(asking, by)], "fp32")
    found = sampled(broken, PATH, 20, seed=1)
    assert all(evaluate_rows(broken, found, PATH)[1])
    assert len(found) < 20


def test_a_model_that_never_learned_to_ask_says_little(toy_base: Path) -> None:
    assert not any(
        row.input.split()[0] in SHAPES
        for row in sampled(load_model(toy_base, [], "fp32"), PATH, 20, seed=1)
        if row.input
    )


def test_the_nucleus_leaves_out_what_is_improbable() -> None:
    choose = nucleus(1.0, 0.9, seed=1)
    logits = torch.tensor([[0.6, 0.3, 0.06, 0.04]]).log().expand(500, -1)
    counts = torch.bincount(choose(logits), minlength=4).tolist()
    assert counts[3] == 0
    assert counts[0] > counts[1] > 0
    assert set(choose(torch.full((4, 4), float("nan"))).tolist()) <= {0, 1, 2, 3}
