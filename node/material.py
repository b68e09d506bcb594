"""The rows of a fine-tune: own rows divided by the hash of their request, and old knowledge rehearsed among them.

Anchors are divided by the same hash, so that what is scored before and after was never trained on. Where a run goes on
from earlier ones, their held-out rows are scored too, and their training rows may be rehearsed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from node.earlier import EarlierRun, request
from registry.errors import BadData
from registry.rows import Row, Split, of_split
from sync.prompt import conversation, prompt_text
from sync.tokens import Example, prompt_text_with_answer

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SAMPLED_ROWS = 300
LEAST_VALIDATION_ROWS = 20  # where there are that many to spare


@dataclass(frozen=True, slots=True)
class Rendered:
    """A row as the model sees it; the loss stands on `answer` only. `cut`: longer than the plan allows."""

    prompt: str
    answer: str
    prompt_tokens: int
    answer_tokens: int
    cut: bool


@dataclass(frozen=True, slots=True)
class Material:
    """What is trained on and what is scored."""

    train: list[Example]
    validation: list[Example]
    test: list[Row]  # own rows to score
    anchors: list[Example]  # old knowledge to score
    own: dict[Split, int]
    replay_rows: int
    notes: tuple[str, ...]
    earlier: tuple[EarlierRun, ...] = ()  # less what is asked anew; of each, the held-out rows to score


def gather(
    rows: Sequence[Row],
    path: str,
    anchors: Sequence[Row],
    *,
    replay: float,
    score_rows: int,
    seed: int,
    earlier: Sequence[EarlierRun] = (),
    rehearse_earlier: bool = False,
) -> Material:
    """Divide own rows and anchors; `replay` is the share of old knowledge among the rows that training sees.

    Old knowledge are the anchors and, with `rehearse_earlier`, the training rows of `earlier` runs, half and half. Own
    rows are asked as `path`, anchors as the path that they come from. Raises BadData when no row is left to train on.
    """
    earlier = [run for run in (_not_asked_anew(run, rows, score_rows) for run in earlier) if run.train or run.test]
    own = {split: [Example(row, path, asks=True) for row in of_split(rows, split)] for split in SPLITS}
    _lend_to_validation(own)
    old = {split: [Example(row, _path_of(row) or path) for row in of_split(anchors, split)] for split in SPLITS}
    if not own["train"]:
        raise BadData(
            f"none of the {len(rows)} rows fell to training (by the hash of their request, 87 % do)",
            "give more rows; a few dozen are the least, a few hundred do good",
        )
    rng = random.Random(seed)  # noqa: S311  sampling, not secrets
    taught = [Example(row, path) for run in earlier for row in run.train] if rehearse_earlier else []
    rehearsed = {
        "train": rehearsal([old["train"], taught], len(own["train"]), replay, rng),
        "validation": rehearsal([old["validation"]], len(own["validation"]), replay, rng)[: len(old["validation"])],
    }
    return Material(
        train=[*own["train"], *rehearsed["train"]],
        validation=[*own["validation"], *rehearsed["validation"]] if own["validation"] else [],
        test=[example.row for example in _scored(own["test"], score_rows)],
        anchors=_scored(old["test"], score_rows),
        own={split: len(own[split]) for split in SPLITS},
        replay_rows=len(rehearsed["train"]),
        notes=tuple(_notes(own, [*old["train"], *taught], replay)),
        earlier=tuple(earlier),
    )


def _not_asked_anew(run: EarlierRun, rows: Sequence[Row], score_rows: int) -> EarlierRun:
    """An earlier run without the requests of the new rows, whose answers count from now on."""
    new = {request(row) for row in rows}
    test = [Example(row, "") for row in run.test if request(row) not in new]
    return replace(
        run,
        train=tuple(row for row in run.train if request(row) not in new),
        test=tuple(example.row for example in _scored(test, score_rows)),
    )


def _lend_to_validation(own: dict[Split, list[Example]]) -> None:
    """Where few rows fell to validation, take some from training, so that the run knows when to stop."""
    wanted = min(LEAST_VALIDATION_ROWS, len(own["train"]) // 10)
    by_key: dict[str, list[Example]] = {}
    for example in own["train"]:
        by_key.setdefault(_key(example.row), []).append(example)
    for key in sorted(by_key, key=_hash):
        if len(own["validation"]) >= wanted:
            break
        own["validation"] += by_key.pop(key)
    kept = by_key.keys()
    own["train"] = [example for example in own["train"] if _key(example.row) in kept]


def _key(row: Row) -> str:
    """What keeps rows together that belong on one side, as in `split_of`."""
    return row.group or row.input.strip().lower() or row.output


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _path_of(row: Row) -> str:
    return "/".join(filter(None, (row.lang, row.domain, row.subdomain)))


def rehearsal(pools: Sequence[list[Example]], beside: int, share: float, rng: random.Random) -> list[Example]:
    """Rows that make up `share` beside `beside` others, as many of each pool; of a pool, each once before any twice."""
    wanted = round(beside * share / (1 - share))
    filled = [pool for pool in pools if pool]
    drawn: list[Example] = []
    for number, pool in enumerate(filled):
        count = (wanted + number) // len(filled)
        end = len(drawn) + count
        while len(drawn) < end:
            drawn += rng.sample(pool, min(len(pool), end - len(drawn)))
    return drawn


def _scored(examples: list[Example], limit: int) -> list[Example]:
    """At most `limit` rows, the same ones whatever the seed and the order of the file."""
    return sorted(examples, key=lambda example: _hash(_key(example.row)))[:limit]


def _notes(own: dict[Split, list[Example]], old: Sequence[Example], replay: float) -> list[str]:
    notes = []
    if not own["validation"]:
        notes.append("no row fell to validation: the last epoch is taken, without early stopping")
    if not own["test"]:
        notes.append("no row fell to the test: the gain on your own rows is not measured")
    if replay and not old:
        notes.append("the release has no anchors to rehearse: the model will forget what it knew")
    if not replay and old:
        notes.append("without replay the model will forget what it knew")
    return notes


def render(tokenizer: Any, example: Example, max_tokens: int) -> Rendered:
    """A row in the words of the base's chat template. Raises BadData where the template refuses its turns."""
    turns = conversation(example.row, example.path)
    prompt = prompt_text(tokenizer, turns)
    answer = prompt_text_with_answer(tokenizer, turns, prompt, example.row.output)
    sizes = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (prompt, answer)]
    return Rendered(prompt, answer, sizes[0], sizes[1], cut=sum(sizes) > max_tokens)


def sample(tokenizer: Any, examples: Sequence[Example], max_tokens: int) -> tuple[float, float]:
    """Of a sample of rows: the largest share of answers in a tenth of like length, and the share of rows cut."""
    step = max(1, len(examples) // SAMPLED_ROWS)
    rows = sorted(
        (render(tokenizer, example, max_tokens) for example in examples[::step]),
        key=lambda row: row.prompt_tokens + row.answer_tokens,
    )
    size = max(1, len(rows) // 10)
    tenths = [rows[at : at + size] for at in range(0, len(rows), size)]
    shares = [
        sum(min(row.answer_tokens, max_tokens) for row in tenth)
        / sum(min(row.prompt_tokens + row.answer_tokens, max_tokens) for row in tenth)
        for tenth in tenths
    ]
    return min(1.0, max(shares)), sum(row.cut for row in rows) / len(rows)
