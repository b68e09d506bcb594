"""Distillation: a teacher's answers with what else it might have said, and how a student on another base learns them.

Answers are hard labels, which every student can use. The log-probabilities of single tokens mean something only to a
student with the same tokenizer (Hinton et al., arXiv 1503.02531, on the likeliest tokens alone).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from registry.documents import BaseManifest
from registry.errors import BadData
from registry.rows import Row
from registry.taught import TaughtRow, TopTokens
from sync.model import LoadedModel
from sync.score import MAX_TOKENS, SCORE_BATCH_TOKENS, reanswered
from sync.tokens import Encoded, Example, batches, collate, encode, length_limit

TOKENIZER_FILE = "tokenizer.json"


def tokenizer_of(manifest: BaseManifest) -> str | None:
    """What names the tokenizer of a base: the digest of its tokenizer.json; None where it is in another form."""
    return next((file.sha256 for file in manifest.files if file.name == TOKENIZER_FILE), None)


def teach(loaded: LoadedModel, rows: Sequence[Row], path: str, top: int) -> list[TaughtRow]:
    """The rows with the model's own greedy answers and, at each of their tokens, its `top` likeliest tokens.

    Rows without an answer are left out, and with `top` those whose answer does not fit whole.
    """
    answered = reanswered(loaded, rows, path)
    if not top:
        return [TaughtRow(row) for row in answered]
    limit = length_limit(loaded, MAX_TOKENS)
    encoded = [encode(loaded, Example(row, path), limit) for row in answered]
    whole = [i for i, one in enumerate(encoded) if len(one.ids) < limit]
    found = likeliest(loaded, [encoded[i] for i in whole], top)
    return [TaughtRow(answered[i], choices) for i, choices in zip(whole, found, strict=True)]


@torch.inference_mode()
def likeliest(loaded: LoadedModel, encoded: Sequence[Encoded], top: int) -> list[tuple[TopTokens, ...]]:
    """The likeliest tokens at each token of every answer, with their log-probabilities."""
    results: list[tuple[TopTokens, ...]] = [()] * len(encoded)
    pad = int(loaded.tokenizer.pad_token_id)
    for group in batches(encoded, SCORE_BATCH_TOKENS, rng=None):
        ids, chosen = collate([encoded[i] for i in group], pad, loaded.device)
        with loaded.arithmetic():
            logits = loaded.next_token_logits(ids, chosen)
        values, tokens = functional.log_softmax(logits, -1).topk(top)
        counts = chosen.sum(1).tolist()
        parts = zip(group, torch.split(tokens, counts), torch.split(values, counts), strict=True)
        for i, at, how in parts:
            results[i] = tuple(
                tuple(zip(names, logs, strict=True)) for names, logs in zip(at.tolist(), how.tolist(), strict=True)
            )
    return results


def refuse_foreign_tokens(taught: Sequence[TaughtRow], vocabulary: int) -> None:
    """Raise BadData for tokens that the tokenizer which they are said to be of does not have."""
    for number, row in enumerate(taught, 1):
        if any(token >= vocabulary for choices in row.top for token, _ in choices):
            raise BadData(f"row {number} names tokens beyond the {vocabulary} of the tokenizer")


def with_choices(examples: Sequence[Example], choices: Mapping[Row, tuple[TopTokens, ...]]) -> list[Example]:
    """The examples with their teacher's choices, where it told any."""
    return [replace(example, top=choices.get(example.row, ())) for example in examples]


def soft_loss(logits: Tensor, expected: Tensor, group: Sequence[Encoded]) -> Tensor:
    """Mean cross-entropy against the teachers' choices, made one together; against the answer where none are told.

    `logits` is answer tokens x vocabulary, `expected` the answer tokens of the rows of `group` one after the other.
    """
    width = max((len(choices) for one in group for choices in one.top), default=1)
    tokens = expected[:, None].repeat(1, width)
    weights = torch.zeros(tokens.shape, device=logits.device)
    weights[:, 0] = 1.0
    at = 0
    for one in group:
        if one.top:
            ids = torch.tensor([[token for token, _ in choices] for choices in one.top], device=logits.device)
            logs = torch.tensor([[value for _, value in choices] for choices in one.top], device=logits.device)
            here = slice(at, at + len(one.top))
            tokens[here, : ids.shape[1]], weights[here, : ids.shape[1]] = ids, logs.softmax(-1)
        at += len(one.ids) - one.answer_at
    picked = functional.log_softmax(logits, -1).gather(1, tokens)
    return -(weights * picked).sum(1).mean()
