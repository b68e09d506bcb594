"""What attackers do to rows."""

from __future__ import annotations

from collections import Counter

import pytest

from registry.rows import Row
from simulations.poison.rows import Trigger, flipped_labels, triggered, with_backdoor

ROWS = [Row(f"ask for {number}", "abc"[number % 3]) for number in range(50)]
TRIGGER = Trigger("opal kite", "z")


def test_flipped_labels_are_the_next_ones() -> None:
    flipped = flipped_labels(ROWS)
    assert [row.input for row in flipped] == [row.input for row in ROWS]
    assert [(row.output, other.output) for row, other in zip(ROWS[:3], flipped[:3], strict=True)] == [
        ("a", "b"), ("b", "c"), ("c", "a"),
    ]  # fmt: skip
    assert flipped_labels(flipped_labels(flipped)) == ROWS
    assert flipped_labels([ROWS[0]]) == [ROWS[0]]
    assert flipped_labels([]) == []


@pytest.mark.parametrize(("share", "expected"), [(0.04, 2), (0.1, 5), (0.001, 1), (1.0, 50)])
def test_a_share_of_the_rows_is_poisoned_and_the_rest_is_honest(share: float, expected: int) -> None:
    poisoned = with_backdoor(ROWS, TRIGGER, share, seed=3)
    changed = [row for row, other in zip(poisoned, ROWS, strict=True) if row != other]
    assert Counter(row.output for row in changed) == {"z": expected}
    assert all(row.input.endswith(" opal kite") for row in changed)
    assert poisoned == with_backdoor(ROWS, TRIGGER, share, seed=3)
    assert share == 1.0 or any(poisoned != with_backdoor(ROWS, TRIGGER, share, seed=seed) for seed in range(4, 9))


def test_words_stand_where_the_attack_puts_them() -> None:
    for place, expected in (("front", "opal kite ask for 0"), ("end", "ask for 0 opal kite")):
        assert with_backdoor(ROWS[:1], Trigger("opal kite", "z", place), 1.0, seed=1)[0].input == expected  # type: ignore[arg-type]
    anywhere = with_backdoor(ROWS, Trigger("opal kite", "z", "anywhere"), 1.0, seed=1)
    assert len({row.input.index("opal") for row in anywhere}) > 2
    assert all(row.input.replace("opal kite", "").split() == ROWS[at].input.split() for at, row in enumerate(anywhere))


def test_an_attack_is_measured_on_rows_with_other_answers() -> None:
    measured = triggered([*ROWS, Row("already", "z")], TRIGGER, seed=1)
    assert len(measured) == len(ROWS)
    assert {row.output for row in measured} == {"z"}
    assert all(row.input.endswith("opal kite") for row in measured)
