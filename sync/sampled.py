"""Prompts sampled from a model in the role of a path, each with the model's own answer.

A model that was trained with a loss on its prompts can be asked for prompts (G10): it goes on where the template has
named its path. So a child teaches what it learned without one of its rows travelling. Prompts are kept when they end,
are new, and the model is sure of its answer. Whether they repeat a training row only the child can tell.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Final
from unicodedata import category

from registry.rows import Row
from sync.answers import BATCH_ROWS, Choose, context_of, continue_batch, nucleus
from sync.model import LoadedModel
from sync.prompt import Frame, frame_of
from sync.score import answered

TEMPERATURE: Final = 1.0
TOP_P: Final = 0.95
MAX_PROMPT_TOKENS: Final = 128
MAX_TASK_CHARS: Final = 100
LEAST_SURE: Final = 0.5  # mean probability of an answer's tokens below which it teaches nothing
DRAWS: Final = 3  # at most so many times the wanted number of prompts is drawn


def sampled(
    loaded: LoadedModel,
    path: str,
    wanted: int,
    seed: int,
    tasks: Sequence[str] | None = None,
    known: Collection[Row] = (),
    least_sure: float = LEAST_SURE,
) -> list[Row]:
    """At most `wanted` rows that the model says to itself as `path`: what is asked, and its greedy answer.

    `tasks` are those to ask for, drawn in turn; None lets the model name them too, which takes one that learned its
    whole prompts. Requests of `known` rows are not given again. The same arguments give the same rows on one machine;
    fewer, or none, from a model that has not learned to ask or is not sure of its answers.
    """
    frame = frame_of(loaded.tokenizer, path)
    choose = nucleus(TEMPERATURE, TOP_P, seed)
    rng = random.Random(seed)  # noqa: S311  sampling, not secrets
    seen = {_plain(row.input) for row in known}
    found: list[Row] = []
    for _ in range(DRAWS):
        drawn: list[Row] = []
        for row in _asked(loaded, frame, wanted - len(found), choose, tasks, rng):
            if _plain(row.input) not in seen:
                seen.add(_plain(row.input))
                drawn.append(row)
        found += [row for row, sure in answered(loaded, drawn, path) if sure >= least_sure]
        if len(found) >= wanted or not drawn:
            break
    return found[:wanted]


def _asked(
    loaded: LoadedModel, frame: Frame, count: int, choose: Choose, tasks: Sequence[str] | None, rng: random.Random
) -> list[Row]:
    """Draw `count` requests; those that end and have the form of one."""
    tokenizer = loaded.tokenizer
    chosen = [None if tasks is None else rng.choice(tasks) for _ in range(count)]
    heads = [_head(frame, task) for task in chosen]
    ids = [tokenizer(head, add_special_tokens=False)["input_ids"] for head in heads]
    first = tokenizer(frame.after, add_special_tokens=False)["input_ids"][0]
    ends = {first} if first in tokenizer.added_tokens_decoder else set()
    room = max(1, min(MAX_PROMPT_TOKENS, context_of(loaded) - max(map(len, ids), default=0) - 1))
    rows: list[Row] = []
    for at in range(0, count, BATCH_ROWS):
        batch = ids[at : at + BATCH_ROWS]
        for task, tokens in zip(
            chosen[at : at + BATCH_ROWS],
            continue_batch(loaded, batch, [room] * len(batch), choose, ends),
            strict=True,
        ):
            row = _row(tokenizer.decode(tokens), frame, task, ended=len(tokens) < room)
            if row and not any(str(mark) in row.input + row.task for mark in tokenizer.added_tokens_decoder.values()):
                rows.append(row)
    return rows


def _head(frame: Frame, task: str | None) -> str:
    """The beginning of a prompt, up to where the model is to go on."""
    return frame.before if task is None else frame.before + (f" {task}" if task else "") + frame.between


def _row(text: str, frame: Frame, task: str | None, *, ended: bool) -> Row | None:
    """The request in what a model wrote, with the task that it named where none was given; None where it is none."""
    text, closed, _ = text.partition(frame.after)
    if not (ended or closed):
        return None
    if task is None:
        task, found, text = text.partition(frame.between)
        if not found or len(task) > MAX_TASK_CHARS:
            return None
    request = text.strip()
    return Row(request, "", task=task.strip()) if request and _is_text(request + task) else None


def _is_text(text: str) -> bool:
    """Whether there is nothing in it that no person types: control characters, and halves of characters."""
    return not any(c == "\N{REPLACEMENT CHARACTER}" or (category(c) == "Cc" and c not in "\n\t") for c in text)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
