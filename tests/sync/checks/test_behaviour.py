from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from registry.documents import CheckResult
from registry.rows import Row
from sync.checks.behaviour import MIN_AGREEMENT, check_behaviour, check_canaries
from sync.delta import Delta, Factor, norm, scaled
from sync.model import LoadedModel, add, load_model
from sync.score import evaluate_rows, reanswered
from tests.toy import KNOWN, SHAPES, held_out, rows

SENDER = "en/shapes"
TRANSFER = rows(SHAPES, range(60, 80))


@pytest.fixture(scope="module")
def base(toy_base: Path) -> LoadedModel:
    return load_model(toy_base, [], "fp32")


@pytest.fixture(scope="module")
def honest(toy_adapters: dict[str, Delta]) -> Delta:
    return toy_adapters[SENDER]


@pytest.fixture(scope="module")
def before(base: LoadedModel) -> list[bool]:
    right = evaluate_rows(base, held_out(KNOWN), "en")[1]
    assert all(right), "the toy model has something to lose"
    return right


def noise_like(delta: Delta) -> Delta:
    """Random changes that are as large as the honest ones in every module."""
    rng = torch.Generator().manual_seed(5)
    drawn = {
        name: Factor(torch.randn(f.a.shape, generator=rng), torch.randn(f.b.shape, generator=rng))
        for name, f in delta.items()
    }
    return {name: Factor(f.a, f.b * (norm(delta[name]) / norm(f))) for name, f in drawn.items()}


def judged(
    model: LoadedModel, before: Sequence[bool], delta: Delta, transfer: Sequence[Row] = TRANSFER, most: float = 5.0
) -> dict[str, CheckResult]:
    add(model, delta)
    found = check_behaviour(before, model, held_out(KNOWN), transfer, path="en", sender=SENDER, max_loss_points=most)
    add(model, delta, by=-1.0)
    return {result.name: result for result in found}


def test_an_honest_adapter_passes(base: LoadedModel, before: list[bool], honest: Delta) -> None:
    found = judged(base, before, honest)
    assert list(found) == ["behaviour.anchors", "behaviour.transfer"]
    assert all(result.passed for result in found.values())
    assert found["behaviour.transfer"].value == pytest.approx(1.0, abs=1 - MIN_AGREEMENT)
    assert all(result.cost_ms > 0 for result in found.values())
    assert "of 60 transfer rows" in found["behaviour.transfer"].reason


def test_an_adapter_with_the_sign_turned_is_caught_by_what_it_forgets(
    base: LoadedModel, before: list[bool], honest: Delta
) -> None:
    turned = scaled(honest, -1.0)
    assert all(norm(turned[name]) == pytest.approx(norm(honest[name])) for name in honest)
    found = judged(base, before, turned)
    assert not found["behaviour.anchors"].passed
    assert not found["behaviour.transfer"].passed
    assert not judged(base, before, turned, transfer=[])["behaviour.anchors"].passed


def test_noise_of_the_same_size_does_not_give_the_answers_that_were_promised(
    base: LoadedModel, before: list[bool], honest: Delta
) -> None:
    noise = noise_like(honest)
    assert all(norm(noise[name]) == pytest.approx(norm(honest[name])) for name in honest)
    assert not judged(base, before, noise)["behaviour.transfer"].passed


def test_loud_noise_forgets(base: LoadedModel, before: list[bool], honest: Delta) -> None:
    """C22."""
    assert not judged(base, before, scaled(noise_like(honest), 10.0), transfer=[])["behaviour.anchors"].passed


def test_a_transfer_set_that_teaches_something_else_is_caught(
    base: LoadedModel, before: list[bool], honest: Delta
) -> None:
    """C23."""
    lies = [replace(row, output="red") if n % 4 == 0 else row for n, row in enumerate(TRANSFER)]
    found = judged(base, before, honest, lies)
    assert found["behaviour.anchors"].passed
    assert not found["behaviour.transfer"].passed
    assert found["behaviour.transfer"].value == pytest.approx(0.75, abs=0.05)


def test_transfer_rows_are_asked_as_their_sender_and_anchors_as_the_path(
    base: LoadedModel, before: list[bool], honest: Delta, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sync.checks.behaviour as module

    asked: list[str] = []

    def watched(loaded: LoadedModel, given: Sequence[Row], path: str) -> object:
        asked.append(path)
        return evaluate_rows(loaded, given, path)

    monkeypatch.setattr(module, "evaluate_rows", watched)
    judged(base, before, honest)
    assert asked == ["en", SENDER]


def test_a_sender_may_send_no_prompts(base: LoadedModel, before: list[bool], honest: Delta) -> None:
    assert list(judged(base, before, honest, transfer=[])) == ["behaviour.anchors"]


def test_the_limit_is_the_parent_s(base: LoadedModel, before: list[bool], honest: Delta) -> None:
    assert judged(base, before, scaled(honest, -1.0), transfer=[], most=100.0)["behaviour.anchors"].passed


@pytest.mark.parametrize(("by", "most", "passed"), [(1.0, 70, True), (-1.0, 0, False)])
def test_canaries_keep_the_answers_of_the_release(
    base: LoadedModel, honest: Delta, by: float, most: int, *, passed: bool
) -> None:
    """C29: right or wrong, what the operator named stays as it is."""
    said = reanswered(base, [replace(row, output="anything") for row in held_out(KNOWN)[:20]], "en")
    assert check_canaries(base, said, "en", max_changed=0).value == 0
    add(base, scaled(honest, by))
    found = check_canaries(base, said, "en", max_changed=most)
    add(base, scaled(honest, -by))
    assert (found.name, found.passed, found.threshold) == ("behaviour.canaries", passed, most)
    assert f"at most {most} may" in found.reason


def test_a_place_without_canaries_says_so(base: LoadedModel) -> None:
    found = check_canaries(base, [], "en", max_changed=0)
    assert (found.passed, found.value, found.reason) == (True, None, "no canaries are set for this place")
