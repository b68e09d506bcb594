from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from registry.rows import Row
from sync.consolidate import OWN_PATH_SHARE, Lesson, consolidate, lessons_as_examples, merge
from sync.delta import Delta, Factor, scaled, total_norm
from sync.model import add, load_model
from sync.score import evaluate_rows
from sync.train import StepReport
from tests.toy import KNOWN, PLAN, SHAPES, TOOLS, held_out, rows, share


def whole(seed: int, rank: int, name: str = "m") -> Delta:
    rng = torch.Generator().manual_seed(seed)
    a, b = (torch.randint(-8, 9, size, generator=rng).float() for size in ((rank, 12), (10, rank)))
    return {name: Factor(a, b)}


def test_a_merge_is_the_own_adapter_and_the_mean_of_the_increments() -> None:
    own, first, second = whole(1, 2), whole(2, 3), whole(3, 1)
    merged = merge(own, [first, second], 6)
    expected = own["m"].product() + 0.5 * first["m"].product() + 0.5 * second["m"].product()
    assert torch.equal(merged.delta["m"].product(), expected)
    assert (merged.delta["m"].rank, merged.error) == (6, 0.0)


def test_a_first_merge_has_nothing_of_its_own() -> None:
    merged = merge(None, [whole(2, 3), whole(3, 1, "n")], 8)
    assert torch.equal(merged.delta["m"].product(), 0.5 * whole(2, 3)["m"].product())
    assert torch.equal(merged.delta["n"].product(), 0.5 * whole(3, 1, "n")["n"].product())


def test_a_merge_keeps_to_the_rank_budget_and_tells_what_that_cost() -> None:
    """G2."""
    parts = [whole(seed, 4) for seed in range(3)]
    exact, small = merge(parts[0], parts[1:], 12), merge(parts[0], parts[1:], 3)
    assert (exact.delta["m"].rank, small.delta["m"].rank) == (12, 3)
    difference = exact.delta["m"].product() - small.delta["m"].product()
    assert small.error == pytest.approx(float(difference.norm()) / total_norm(exact.delta), rel=1e-4)
    assert 0.1 < small.error < 1


def test_a_merge_goes_by_the_rule_that_is_asked_for() -> None:
    own, parts = whole(1, 2), [whole(seed, 2) for seed in range(2, 7)]
    merged = merge(own, parts, 12, rule="krum", f=1)
    rest = merged.delta["m"].product() - own["m"].product()
    assert any(torch.allclose(rest, part["m"].product(), atol=1e-4) for part in parts)
    assert (merged.rule.name, merged.rule.passed, merged.rule.value) == ("merge.rule", True, 0.0)
    assert merged.rule.reason == "5 increments merged by krum exactly"


def test_a_cohort_that_the_rule_does_not_cover_is_clipped_and_averaged() -> None:
    small, large = whole(2, 1), whole(3, 1)
    shortened = total_norm(small) / total_norm(large)
    merged = merge(None, [small, scaled(large, 1000.0)], 6, rule="multi-krum", f=1)
    expected = 0.5 * (small["m"].product() + shortened * large["m"].product())
    torch.testing.assert_close(merged.delta["m"].product(), expected, rtol=1e-4, atol=1e-3)
    assert not merged.rule.passed
    assert merged.rule.reason == (
        "multi-krum needs n > 2f + 2: n = 2, f = 1; 2 increments merged by norm-clipping exactly"
    )


def test_the_error_of_a_merge_covers_what_its_rule_cut() -> None:
    own, parts = whole(9, 2), [whole(seed, 4) for seed in range(3)]
    exact, found = merge(own, parts, 64, rule="median"), merge(own, parts, 3, rule="median")
    true = float((found.delta["m"].product() - exact.delta["m"].product()).norm()) / total_norm(exact.delta)
    assert found.rule.value == pytest.approx(merge(None, parts, 3, rule="median").error, rel=1e-6)
    assert 0.1 < true <= found.error < 1
    assert "by median with a relative error of 0." in found.rule.reason


def test_inputs_are_measured_for_the_rule_that_needs_them_alone() -> None:
    parts, asked = [whole(2, 1), whole(3, 1)], list[int]()

    def grams() -> list[dict[str, torch.Tensor]]:
        asked.append(1)
        return [{"m": torch.eye(12)}] * 2

    mean = merge(None, parts, 6, grams=grams)
    assert asked == []
    alike = merge(None, parts, 6, rule="regmean", grams=grams)
    assert asked == [1]
    torch.testing.assert_close(alike.delta["m"].product(), mean.delta["m"].product(), rtol=1e-4, atol=1e-4)
    without = merge(None, parts, 6, rule="regmean")
    assert "regmean needs the Gram matrices" in without.rule.reason


LESSONS = [Lesson("en/a", rows(SHAPES, range(100))), Lesson("en/b", rows(TOOLS, range(100)))]


def test_lessons_come_once_a_pass_and_old_rows_until_they_are_as_many() -> None:
    taught, few = [*LESSONS[0].rows, *LESSONS[1].rows], rows(KNOWN, range(10))
    examples = lessons_as_examples(LESSONS, few, "en", ["en/c"], seed=1, passes=2)
    rehearsals = -(-2 * len(taught) // len(few))
    assert Counter(example.row for example in examples) == Counter(taught * 2 + few * rehearsals)
    many = [Row(f"old {number}", "known") for number in range(3 * len(taught))]
    examples = lessons_as_examples(LESSONS, many, "en", ["en/c"], seed=1, passes=2)
    assert Counter(example.row for example in examples) == Counter(taught * 2 + many)


def test_prompts_are_asked_as_the_path_or_as_a_role_below_it() -> None:
    examples = lessons_as_examples(LESSONS, [], "en", ["en/c"], seed=1, passes=1)
    by_teacher = [Counter(e.path for e in examples if e.row in set(lesson.rows)) for lesson in LESSONS]
    assert [set(paths) for paths in by_teacher] == [{"en", "en/a", "en/c"}, {"en", "en/b", "en/c"}]
    own = sum(paths["en"] for paths in by_teacher) / len(examples)
    assert own == pytest.approx(OWN_PATH_SHARE, abs=0.08)


def test_without_roles_below_only_the_path_is_asked() -> None:
    assert {example.path for example in lessons_as_examples(LESSONS, [Row("a", "b")], "en", [], seed=1, passes=1)} == {
        "en"
    }


def test_the_seed_decides_who_is_asked() -> None:
    first, again, other = (lessons_as_examples(LESSONS, [], "en", ["en/c"], seed=seed, passes=1) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_consolidation_brings_back_what_the_merge_lost(
    toy_base: Path, toy_adapters: dict[str, Delta], tmp_path: Path
) -> None:
    loaded = load_model(toy_base, [], "fp32")
    taught = {"en/shapes": SHAPES, "en/tools": TOOLS}
    merged = merge(None, list(toy_adapters.values()), 16).delta
    lessons = [Lesson(path, rows(table, range(20))) for path, table in taught.items()]
    examples = lessons_as_examples(lessons, rows(KNOWN), "en", list(taught), seed=1, passes=1)
    plan = replace(PLAN, rank=16, alpha=16.0, epochs=8, learning_rate=1.5e-2)
    after = consolidate(loaded, merged, examples, plan, tmp_path).delta

    def knows(delta: Delta) -> list[float]:
        add(loaded, delta)
        found = [share(evaluate_rows(loaded, held_out(table), "en")[1]) for table in (SHAPES, TOOLS, KNOWN)]
        add(loaded, delta, by=-1.0)
        return found

    assert min(knows(merged)) < 0.9
    assert min(knows(after)) >= 0.95


@pytest.mark.parametrize(("epochs", "count"), [(0, 5), (3, 0)])
def test_with_nothing_to_do_the_start_is_the_outcome(
    epochs: int, count: int, toy_base: Path, toy_adapters: dict[str, Delta], tmp_path: Path
) -> None:
    loaded, start = load_model(toy_base, [], "fp32"), toy_adapters["en/tools"]
    examples = lessons_as_examples([], rows(KNOWN)[:count], "en", [], seed=1, passes=1)
    seen: list[StepReport] = []
    result = consolidate(loaded, start, examples, replace(PLAN, epochs=epochs), tmp_path / "work", seen.append)
    assert (result.delta, result.steps, seen) == (start, 0, [])
