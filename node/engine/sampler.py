"""Choosing the next token of every row of a batch, in a few tensor operations whatever the rows ask for.

The order is that of transformers: bias, penalties, grammar mask, temperature, top-k, top-p, min-p, then a draw.

Draws come from a counter, not from a generator: the random number of a row is a hash of (key of the row, tokens
generated so far). So a seeded request gives the same tokens whichever rows run beside it, in whichever order, and
after a preemption. The hash is SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from node.engine.sampling import SamplingParams

GOLDEN: Final = 0x9E3779B97F4A7C15
WORD: Final = (1 << 64) - 1
NONE: Final = -1


@dataclass(frozen=True, slots=True)
class Row:
    """What the choice of one row needs beside its logits.

    `key` is the row's stream of random numbers, `position` its generated tokens so far; `seen` maps each token of its
    prompt and output to how often it was generated (only looked at where a penalty asks).
    """

    params: SamplingParams
    key: int
    position: int
    seen: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Likely:
    """A chosen token's log-probability, and the likeliest tokens of its place as (token, log-probability)."""

    logprob: float
    top: tuple[tuple[int, float], ...]


def stream_key(seed: int, choice: int) -> int:
    """The key of choice number `choice` of a request with this seed, 64 bits."""
    key = np.array([(seed + choice * GOLDEN) & WORD], dtype=np.uint64)
    return int(_mixed(key)[0])


def sample(logits: Tensor, rows: Sequence[Row], allowed: Tensor | None = None) -> Tensor:
    """Token ids (rows) int64 on the CPU, chosen from logits (rows, vocabulary) float32, which stay as they are.

    A row without a finite best score (the model overflowed, or nothing is permitted) gets NONE.
    `allowed` (rows, ceil(vocabulary / 32)) int32 on the CPU has one bit for each token that a grammar permits.
    """
    scores = _adjusted(logits, rows, allowed)
    best = scores.max(dim=-1)
    tokens = best.indices
    if not all(row.params.greedy for row in rows):
        device = logits.device
        greedy = torch.tensor([row.params.greedy for row in rows], device=device)
        heat = torch.tensor([1.0 if row.params.greedy else row.params.temperature for row in rows], device=device)
        scaled = _cut(scores / heat[:, None], rows)
        tokens = torch.where(greedy, tokens, _drawn(scaled, rows))
    return tokens.masked_fill(~best.values.isfinite(), NONE).cpu()


def likelihoods(logits: Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[Likely]:
    """What the model itself thought of `tokens`: one row of logits (rows, vocabulary) each, with `tops` alternatives.

    Taken before bias, penalties, mask and temperature.
    """
    if not tokens:
        return []
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    values, indices = logprobs.topk(min(max(tops), logits.shape[1]), dim=-1)
    ranked = zip(chosen, tops, indices.tolist(), values.tolist(), strict=True)
    return [Likely(own, tuple(zip(ids[:top], logs[:top], strict=True))) for own, top, ids, logs in ranked]


def _adjusted(logits: Tensor, rows: Sequence[Row], allowed: Tensor | None) -> Tensor:
    """Logits after bias, penalties and mask; the same tensor where nothing asks for any."""
    biased = [i for i, row in enumerate(rows) if row.params.logit_bias]
    penalised = [i for i, row in enumerate(rows) if row.params.penalised and row.seen]
    if not biased and not penalised and allowed is None:
        return logits
    scores = logits.clone() if biased or penalised else logits
    if biased:
        _add_bias(scores, rows, biased)
    if penalised:
        _penalise(scores, rows, penalised)
    if allowed is not None:
        scores = torch.where(unpacked(allowed, scores.shape[1]).to(scores.device), scores, -math.inf)
    return scores


def unpacked(bits: Tensor, width: int) -> Tensor:
    """Booleans (rows, width) from int32 words (rows, words), lowest bit first; False beyond the last word."""
    flags = np.unpackbits(bits.numpy().view(np.uint8), axis=1, bitorder="little", count=width)
    return torch.from_numpy(flags.view(np.bool_))


def _add_bias(scores: Tensor, rows: Sequence[Row], chosen: Sequence[int]) -> None:
    row_of = [i for i in chosen for _ in rows[i].params.logit_bias]
    token = [token for i in chosen for token in rows[i].params.logit_bias]
    bias = [bias for i in chosen for bias in rows[i].params.logit_bias.values()]
    scores[row_of, token] += torch.tensor(bias, dtype=scores.dtype, device=scores.device)


def _penalise(scores: Tensor, rows: Sequence[Row], chosen: Sequence[int]) -> None:
    sizes = np.array([len(rows[i].seen) for i in chosen])

    def spread(values: Sequence[float]) -> Tensor:
        return torch.from_numpy(np.repeat(np.array(values, dtype=np.float32), sizes)).to(scores.device)

    row_of = torch.from_numpy(np.repeat(np.array(chosen), sizes)).to(scores.device)
    token = torch.tensor([token for i in chosen for token in rows[i].seen], device=scores.device)
    count = torch.tensor([count for i in chosen for count in rows[i].seen.values()], device=scores.device)
    repetition = spread([rows[i].params.repetition_penalty for i in chosen])
    frequency = spread([rows[i].params.frequency_penalty for i in chosen])
    presence = spread([rows[i].params.presence_penalty for i in chosen])
    value = scores[row_of, token]
    value = torch.where(value < 0, value * repetition, value / repetition)
    scores[row_of, token] = value - frequency * count - presence * (count > 0)


def _cuts(params: SamplingParams) -> bool:
    return not params.greedy and (params.top_k > 0 or params.top_p < 1 or params.min_p > 0)


def _cut(scaled: Tensor, rows: Sequence[Row]) -> Tensor:
    """-inf for what top-k, top-p and min-p leave out; scaled is (rows, vocabulary) after temperature."""
    chosen = [i for i, row in enumerate(rows) if _cuts(row.params)]
    if not chosen:
        return scaled
    least = torch.full((len(rows), 1), -math.inf, device=scaled.device)
    ranked = [i for i in chosen if rows[i].params.top_k or rows[i].params.top_p < 1]
    if ranked:
        least[ranked] = _rank_floor(scaled if len(ranked) == len(rows) else scaled[ranked], [rows[i] for i in ranked])
    if any(rows[i].params.min_p for i in chosen):
        share = torch.tensor([row.params.min_p for row in rows], device=scaled.device)[:, None]
        least = torch.maximum(least, scaled.amax(dim=-1, keepdim=True) + share.log())
    return torch.where(scaled < least, -math.inf, scaled)


def _rank_floor(scaled: Tensor, rows: Sequence[Row]) -> Tensor:
    """The smallest score (rows, 1) that top-k and top-p keep; scaled is (rows, vocabulary)."""
    vocabulary = scaled.shape[1]
    top_k = [min(row.params.top_k or vocabulary, vocabulary) for row in rows]
    width = max(top_k)
    best = _ascending(scaled)[:, vocabulary - width :]
    left_out = width - torch.tensor(top_k, device=scaled.device)[:, None]
    if left_out.any():
        best = torch.where(torch.arange(width, device=scaled.device) < left_out, -math.inf, best)
    # As transformers does it: of the least likely tokens those go that together have no more than 1 - top_p.
    spare = torch.tensor([1 - row.params.top_p if row.params.top_p < 1 else -1.0 for row in rows], device=scaled.device)
    gone = torch.searchsorted(torch.softmax(best, dim=-1).cumsum(dim=-1), spare[:, None], right=True)
    return best.gather(1, torch.maximum(gone, left_out).clamp(max=width - 1))


def _ascending(scores: Tensor) -> Tensor:
    """Each row sorted. On the CPU by numpy, whose sort is many times as fast as torch's there."""
    if scores.device.type != "cpu":
        return scores.sort(dim=-1).values
    return torch.from_numpy(np.sort(scores.numpy(), axis=-1))


def _drawn(scaled: Tensor, rows: Sequence[Row]) -> Tensor:
    """One draw for each row by the inverse of its distribution function.

    That is the first token whose cumulative mass is above u times the total; in float64, so that a long vocabulary
    loses nothing.
    """
    keys = np.array([row.key for row in rows], dtype=np.uint64)
    uniform = torch.from_numpy(uniforms(keys, np.array([row.position for row in rows], dtype=np.uint64)))
    mass = torch.softmax(scaled, dim=-1).double().cumsum_(dim=-1)
    point = uniform.to(scaled.device)[:, None] * mass[:, -1:]
    token = torch.searchsorted(mass, point, right=True)[:, 0]
    # u is below 1, but u * total may round up to the total: then the last token that has any mass is meant.
    last = torch.searchsorted(mass, mass[:, -1:].contiguous())[:, 0]
    return torch.minimum(token, last)


def uniforms(keys: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Numbers in [0, 1) with 53 random bits, one for each (key, position)."""
    with np.errstate(over="ignore"):
        words = _mixed(keys + positions * np.uint64(GOLDEN))
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output for each state."""
    with np.errstate(over="ignore"):
        z = words + np.uint64(GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
