from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from registry.errors import BadData, LocalFailure
from simulations.reproduction.rows import FILE, Corpus, read_corpus


@pytest.mark.parametrize("alpha", [0.5, 0.01, None])
@pytest.mark.parametrize("seed", [1, 2])
def test_every_row_is_one_clients(corpus: Corpus, alpha: float | None, seed: int) -> None:
    shares = corpus.shared(7, alpha, seed, 10_000)
    assert Counter(row for share in shares for row in share) == Counter(corpus.encoded(corpus.train))
    assert all(shares)


def test_labels_are_skewed_as_far_as_asked(corpus: Corpus) -> None:
    def labels(alpha: float | None) -> float:
        shares = corpus.shared(7, alpha, 1, 10_000)
        return sum(len({row.label for row in share}) for share in shares) / len(shares)

    assert labels(0.01) < labels(0.5) <= labels(None) == 4


def test_the_three_parts_have_no_text_in_common(corpus: Corpus) -> None:
    parts = [{row.input for row in part} for part in (corpus.train, corpus.validation, corpus.test)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 240


def test_what_cannot_be_read_is_said_with_the_next_step(tmp_path: Path, data: Path, model: Path) -> None:
    with pytest.raises(BadData, match=f"no {FILE}") as told:
        read_corpus(tmp_path, model)
    assert "--data" in told.value.hint
    (tmp_path / FILE).write_text('{"input": "a"}\n')
    with pytest.raises(BadData, match="does not hold rows of the tree"):
        read_corpus(tmp_path, model)
    with pytest.raises(LocalFailure, match="no tokenizer"):
        read_corpus(data, tmp_path)
