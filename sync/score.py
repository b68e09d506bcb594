"""How good a model is on rows: exact match, names right, perplexity and bits per byte of the expected answers."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from registry.rows import Row
from sync.answers import answer, has_room
from sync.model import LoadedModel
from sync.prompt import conversation, prompt_text
from sync.tokens import Encoded, Example, batches, collate, encode, length_limit, targets

MAX_TOKENS = 1024
SCORE_BATCH_TOKENS = 2048  # more than fills the caches of a processor: 8,192 take a quarter longer for a row
NAME_KEYS = ("tool", "intent", "intents", "name")
SPARE_TOKENS = 8  # an answer may be written with a few tokens more than expected and still be the same JSON


@dataclass(frozen=True, slots=True)
class Scores:
    """Figures of one model on one set of rows; `name_accuracy` is None where no expected answer names anything."""

    rows: int
    exact_match: float
    name_accuracy: float | None
    perplexity: float
    bits_per_byte: float
    seconds: float

    def metrics(self) -> dict[str, float]:
        """The figures that exist, by name."""
        figures = asdict(self)
        return {name: float(figures[name]) for name in figures if figures[name] is not None and name != "rows"}


@dataclass(frozen=True, slots=True)
class Fit:
    """What a model thinks of one expected answer: its cost in nats, and whether greedy decoding writes it."""

    nats: float
    tokens: int
    greedy: bool


def parsed(text: str) -> Any:
    """The JSON value of an answer, or the stripped text itself when it is not JSON."""
    try:
        return json.loads(text, parse_constant=_not_json)
    except (ValueError, RecursionError):  # the latter for brackets by the thousand
        return text.strip()


def _not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def same_answer(expected: str, given: str) -> bool:
    """Whether two answers are the same: JSON is compared as JSON, anything else as stripped text."""
    try:
        return _same(parsed(expected), parsed(given))
    except RecursionError:
        return expected.strip() == given.strip()


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON values, in which true is not 1, unlike in Python."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def name_of(output: str) -> str | list[str] | None:
    """The tool or intent that an answer names, of a list of calls the list of names; None if it names none."""
    value = parsed(output)
    if not isinstance(value, list):
        return _name(value)
    names = [_name(call) for call in value if isinstance(call, dict)]
    single = [name for name in names if isinstance(name, str)]
    return single if single and len(single) == len(names) else None


def _name(value: Any) -> str | list[str] | None:
    if not isinstance(value, dict):
        return None
    found = next((value[key] for key in NAME_KEYS if key in value), None)
    if isinstance(found, list):  # several intents, in no order
        return sorted(found) if all(isinstance(name, str) for name in found) else None
    return found if isinstance(found, str) else None


@torch.inference_mode()
def fits(loaded: LoadedModel, encoded: Sequence[Encoded], on_progress: Callable[[int], None]) -> list[Fit]:
    """Teacher-forced cost of every expected answer; where every best token is the expected one, greedy writes it."""
    results: list[Fit | None] = [None] * len(encoded)
    done = 0
    pad = int(loaded.tokenizer.pad_token_id)
    for group in batches(encoded, SCORE_BATCH_TOKENS, rng=None):
        ids, chosen = collate([encoded[i] for i in group], pad, loaded.device)
        with loaded.arithmetic():
            logits = loaded.next_token_logits(ids, chosen)
        expected = targets(ids, chosen)
        costs = functional.cross_entropy(logits, expected, reduction="none")
        right = logits.argmax(-1) == expected
        counts = chosen.sum(1).tolist()
        for i, cost, hits in zip(group, torch.split(costs, counts), torch.split(right, counts), strict=True):
            results[i] = Fit(nats=float(cost.sum()), tokens=len(cost), greedy=bool(hits.all()))
        done += len(group)
        on_progress(done)
    return [fit for fit in results if fit is not None]


def evaluate(
    loaded: LoadedModel,
    rows: Sequence[Row],
    path: str,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Score the model of a path on rows.

    Rows whose expected answer is the greedy one token for token are right without being generated; the others are
    generated, because the same JSON may be written in other tokens and the name may be right when the rest is not.
    A request that leaves no room in the model's context counts as not answered.
    """
    scores, _ = evaluate_rows(loaded, rows, path, on_progress)
    return scores


def evaluate_rows(
    loaded: LoadedModel,
    rows: Sequence[Row],
    path: str,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Scores, list[bool]]:
    """`evaluate`, and whether each row was right."""
    started = time.monotonic()
    limit = length_limit(loaded, MAX_TOKENS)
    encoded = [encode(loaded, Example(row, path), limit) for row in rows]
    costs = fits(loaded, encoded, lambda done: on_progress(done // 2, len(rows)))
    half = len(rows) // 2
    given = _generated(
        loaded,
        {i: (rows[i], fit.tokens + SPARE_TOKENS) for i, fit in enumerate(costs) if not fit.greedy},
        path,
        lambda done, total: on_progress(half + done * (len(rows) - half) // total, len(rows)),
    )
    right = [
        fit.greedy or (i in given and same_answer(row.output, given[i]))
        for i, (row, fit) in enumerate(zip(rows, costs, strict=True))
    ]
    named = [
        right[i] or (i in given and name_of(given[i]) == name_of(row.output))
        for i, row in enumerate(rows)
        if name_of(row.output) is not None
    ]
    nats, tokens = sum(fit.nats for fit in costs), sum(fit.tokens for fit in costs)
    size = sum(len(row.output.encode()) for row in rows)
    scores = Scores(
        rows=len(rows),
        exact_match=sum(right) / len(rows) if rows else 0.0,
        name_accuracy=sum(named) / len(named) if named else None,
        perplexity=math.exp(min(nats / tokens, 700.0)) if tokens else 1.0,
        bits_per_byte=nats / math.log(2) / size if size else 0.0,
        seconds=time.monotonic() - started,
    )
    return scores, right


def _generated(
    loaded: LoadedModel, asked: Mapping[int, tuple[Row, int]], path: str, on_progress: Callable[[int, int], None]
) -> dict[int, str]:
    """The greedy answers to rows, each with a limit of its own; without those that the context has no room for."""
    prompts = {i: prompt_text(loaded.tokenizer, conversation(row, path)) for i, (row, _) in asked.items()}
    prompts = {i: prompt for i, prompt in prompts.items() if has_room(loaded, prompt)}
    limits = [asked[i][1] for i in prompts]
    return dict(zip(prompts, answer(loaded, list(prompts.values()), limits, on_progress), strict=True))


def answered(loaded: LoadedModel, rows: Sequence[Row], path: str) -> list[tuple[Row, float]]:
    """The rows with the model's own greedy answers, asked as `path`, and how sure it is of each.

    How sure: the mean probability of the answer's tokens, its end included (geometric, 0 to 1). A prompt without room
    and an answer that is empty or does not end are left out.
    """
    prompts = {row: prompt_text(loaded.tokenizer, conversation(row, path)) for row in rows}
    asked = [row for row in prompts if has_room(loaded, prompts[row])]
    given = answer(loaded, [prompts[row] for row in asked])
    told = [replace(row, output=output) for row, output in zip(asked, given, strict=True) if output]
    limit = length_limit(loaded, MAX_TOKENS)
    found = fits(loaded, [encode(loaded, Example(row, path), limit) for row in told], lambda done: None)
    return [(row, math.exp(-fit.nats / fit.tokens)) for row, fit in zip(told, found, strict=True) if fit.greedy]


def reanswered(loaded: LoadedModel, rows: Sequence[Row], path: str) -> list[Row]:
    """The rows with the model's own greedy answers, asked as `path`; those without room or answer are left out.

    Where the answer of a row is the greedy one already, which is most of an anchor set, nothing is generated.
    """
    limit = length_limit(loaded, MAX_TOKENS)
    known = fits(loaded, [encode(loaded, Example(row, path), limit) for row in rows], lambda done: None)
    changed = [row for row, fit in zip(rows, known, strict=True) if not fit.greedy]
    prompts = {row: prompt_text(loaded.tokenizer, conversation(row, path)) for row in changed}
    asked = [row for row in prompts if has_room(loaded, prompts[row])]
    given = dict(zip(asked, answer(loaded, [prompts[row] for row in asked]), strict=True))
    found = [
        row if fit.greedy else replace(row, output=given.get(row, "")) for row, fit in zip(rows, known, strict=True)
    ]
    return [row for row in found if row.output]
