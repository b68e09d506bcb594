"""The direction of a change beside that of the node's own rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from sync.checks import root_set
from sync.checks.root_set import check_root, root_update
from sync.delta import Delta, scaled
from sync.model import load_model
from tests.toy import SHAPES, rows


def test_what_goes_against_the_own_rows_fails(toy_adapters: dict[str, Delta]) -> None:
    """C28."""
    own, other = toy_adapters["en/shapes"], toy_adapters["en/tools"]
    for delta, passed in ((own, True), (other, True), (scaled(own, 100.0), True), (scaled(own, -0.01), False)):
        found = check_root(delta, own, 300, min_cosine=-0.05)
        assert (found.name, found.passed, found.threshold) == ("root.cosine", passed, -0.05)
        assert "at least -0.05 must be" in found.reason
    assert check_root(own, own, 300, min_cosine=-0.05).value == pytest.approx(1.0)
    assert check_root(scaled(own, 0.0), own, 300, min_cosine=-0.05).value == 0


def test_a_small_root_set_is_said_and_fails_nobody(toy_base: Path, tmp_path: Path) -> None:
    loaded = load_model(toy_base, [], "fp32")
    few = rows(SHAPES)[: root_set.ROWS_NEEDED - 1]
    assert root_update(loaded, few, "en", "a" * 64, tmp_path) is None
    found = check_root({}, None, 99, min_cosine=-0.05)
    assert (found.passed, found.value) == (True, None)
    assert "root set too small: 99 rows of this place, 100 are needed" in found.reason


def test_the_reference_is_made_once_per_release(
    toy_base: Path, tmp_path: Path, toy_adapters: dict[str, Delta], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root_set, "ROWS_NEEDED", 10)
    loaded, steps = load_model(toy_base, [], "fp32"), list[int]()
    plain_fit = root_set.fit
    monkeypatch.setattr(
        root_set, "fit", lambda *given: plain_fit(*given, on_step=lambda report: steps.append(report.step))
    )
    own = rows(SHAPES)
    (tmp_path / "root-en.shapes-0000000000000000").mkdir()
    first = root_update(loaded, own, "en", "a" * 64, tmp_path)
    made = len(steps)
    again = root_update(loaded, own, "en", "a" * 64, tmp_path)
    assert made
    assert len(steps) == made
    assert first is not None
    assert again is not None
    assert all((first[name].b == again[name].b).all() for name in first)
    aligned, against = (
        check_root(scaled(toy_adapters["en/shapes"], by), first, len(own), min_cosine=0.0) for by in (1.0, -1.0)
    )
    assert aligned.passed
    assert not against.passed
    assert root_update(loaded, own, "en", "b" * 64, tmp_path) is not None
    assert len(steps) == 2 * made
    names = sorted(folder.name for folder in tmp_path.iterdir())
    assert names == ["root-en-" + "b" * 16, "root-en.shapes-" + "0" * 16], "the older release's is gone"
