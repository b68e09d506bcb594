"""Texts become unit vectors offline; what is no model is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recommender import embed as module
from recommender.embed import embed
from registry.errors import BadData


def test_vectors_are_of_unit_length_and_near_what_they_mean() -> None:
    vectors = embed(["translate a letter into French", "French translation of mail", "the price of copper", ""])
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_no_text_is_no_vector() -> None:
    assert embed([]).shape == (0, 384)


def test_only_the_start_of_a_text_is_read() -> None:
    start = "word " * 2000
    assert np.array_equal(embed([start + "one"]), embed([start + "another"]))


def test_bounds_and_folders_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadData, match="sentence-transformers model"):
        embed(["x"], model=tmp_path)
    (tmp_path / "modules.json").write_text("not json")
    with pytest.raises(BadData, match="cannot be loaded"):
        embed(["x"], model=tmp_path)
    monkeypatch.setattr(module, "MAX_TEXTS", 1)
    with pytest.raises(BadData, match="too many"):
        embed(["x", "y"])
