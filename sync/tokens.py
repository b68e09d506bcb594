"""Rows as token ids: the request under a path's prompt, then the answer, and where the answer begins."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from registry.errors import BadData
from registry.rows import Row
from registry.taught import TopTokens
from sync.model import LoadedModel
from sync.prompt import Message, conversation, frame_of, prompt_text, templated


@dataclass(frozen=True, slots=True)
class Example:
    """A row as it is asked of the model of one path.

    `asks`: its prompt is learned too (`TrainPlan.prompt_loss`); `top`: what its teacher might have said at each token.
    """

    row: Row
    path: str
    asks: bool = False
    top: tuple[TopTokens, ...] = ()


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one example; the answer, its end mark included, begins at `answer_at`.

    Where the prompt is to be learned too, what follows the path in it begins at `ask_at`.
    """

    ids: list[int]
    answer_at: int
    ask_at: int | None = None
    top: tuple[TopTokens, ...] = ()


def encode(loaded: LoadedModel, example: Example, max_tokens: int) -> Encoded:
    """Token ids of prompt and answer in the base's chat template.

    Where they are too many, the prompt loses its beginning, then the answer its end. A teacher's choices are kept where
    there is one for each token of the answer.
    """
    tokenizer = loaded.tokenizer
    turns = conversation(example.row, example.path)
    prompt = prompt_text(tokenizer, turns)
    closed = prompt_text_with_answer(tokenizer, turns, prompt, example.row.output)
    head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer = tokenizer(closed, add_special_tokens=False)["input_ids"]
    room = max(max_tokens - len(answer), max_tokens // 2)
    cut = max(0, len(head) - room)
    ask_at = None
    if example.asks:
        before = tokenizer(frame_of(tokenizer, example.path).before, add_special_tokens=False)["input_ids"]
        ask_at = max(1, len(before) - cut)
    fits = len(example.top) == len(answer) and len(head) - cut + len(answer) <= max_tokens
    return Encoded([*head[cut:], *answer][:max_tokens], len(head) - cut, ask_at, example.top if fits else ())


def prompt_text_with_answer(tokenizer: Any, turns: list[Message], prompt: str, answer: str) -> str:
    """The answer as the template closes it, or else with the end token: what follows the prompt in a conversation."""
    try:
        whole = templated(tokenizer, [*turns, Message(role="assistant", content=answer)], asks=False)
    except BadData:
        whole = ""
    closing = whole.removeprefix(prompt + answer).rstrip("\n") if whole.startswith(prompt + answer) else ""
    return answer + (closing or str(tokenizer.eos_token))


def length_limit(loaded: LoadedModel, wanted: int) -> int:
    """The wanted number of tokens, or what the model can take."""
    return min(wanted, int(getattr(loaded.model.config, "max_position_embeddings", wanted)))


def batches(encoded: Sequence[Encoded], batch_tokens: int, rng: random.Random | None) -> Iterator[list[int]]:
    """Indices in batches of about `batch_tokens` padded tokens, rows of like length together; shuffled if `rng`."""
    order = list(range(len(encoded)))
    if rng:
        rng.shuffle(order)  # rows of one length meet other rows on every pass
    order.sort(key=lambda i: len(encoded[i].ids))
    groups: list[list[int]] = [[]]
    for i in order:
        if groups[-1] and (len(groups[-1]) + 1) * len(encoded[i].ids) > batch_tokens:
            groups.append([])
        groups[-1].append(i)
    if rng:
        rng.shuffle(groups)
    yield from (group for group in groups if group)


def collate(batch: Sequence[Encoded], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids padded on the right (rows x tokens) and the mask of places whose *next* token belongs to an answer."""
    width = max(len(one.ids) for one in batch)
    ids = torch.full((len(batch), width), pad)
    before_answer = torch.zeros(len(batch), width, dtype=torch.bool)
    for i, one in enumerate(batch):
        ids[i, : len(one.ids)] = torch.tensor(one.ids)
        before_answer[i, one.answer_at - 1 : len(one.ids) - 1] = True
    return ids.to(device), before_answer.to(device)


def prompt_places(batch: Sequence[Encoded], like: torch.Tensor) -> torch.Tensor:
    """The mask of places whose next token belongs to a prompt that is to be learned; of the form of `like`."""
    places = torch.zeros_like(like, dtype=torch.bool)
    for i, one in enumerate(batch):
        if one.ask_at is not None:
            places[i, one.ask_at - 1 : one.answer_at - 1] = True
    return places


def targets(ids: torch.Tensor, before_answer: torch.Tensor) -> torch.Tensor:
    """The answer tokens of a batch, in the order of the mask."""
    return ids.roll(-1, dims=1)[before_answer]
