"""How much memory a model takes, to run and to be trained with LoRA, from what is known of its shape.

    weights   parameters times the bits of their numbers; in GGUF files of few bits the output matrix has more
    cache     keys and values of the context: 2 numbers per layer, head and token, in 16 bits
    buffers   what one batch of a prompt needs beside them
    runtime   the program, and on a GPU its driver's context

What is not known of a shape is taken from how the shapes of published models grow with their size (`_usual`). All
arguments of the functions are arrays over models, so that a million are estimated at once. Where the figures were
checked against files that ran: tests/benchmarks/recommender/hardware.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recommender.candidate import Candidate
from recommender.constraints import Device

Floats = NDArray[np.float64]

# Bits per weight of whole files, as llama.cpp measured on Llama 3.1 8B (its tools/quantize/README.md); those of other
# makers from their formats: a scale of 8 or 16 bits per 16 to 128 numbers.
BITS: Final[dict[str, float]] = {
    "F32": 32.0, "F16": 16.0, "FP16": 16.0, "BF16": 16.0, "FP8": 8.1, "Q8_0": 8.5, "MXFP8": 8.25, "8BIT": 8.5,
    "Q6_K": 6.56, "Q5_K_M": 5.7, "Q5_K_S": 5.57, "Q5_0": 5.54, "Q5_1": 6.0, "Q4_K_XL": 4.95, "Q4_K_M": 4.89,
    "Q4_K_S": 4.67, "Q4_0": 4.66, "Q4_1": 5.1, "IQ4_NL": 4.68, "IQ4_XS": 4.46, "NVFP4": 4.6, "MXFP4": 4.6,
    "4BIT": 4.5, "AWQ": 4.6, "GPTQ": 4.6, "INT4": 4.6, "Q3_K_L": 4.3, "Q3_K_M": 4.0, "Q3_K_S": 3.64, "Q2_K": 3.16,
}  # fmt: skip
OUTPUT_BITS: Final = (
    6.56  # of the output matrix in the K files of 4 bits and fewer, which is also the embedding's where tied
)
K_BLOCK: Final = 256  # rows of another width cannot be in K blocks, and get about 1.3 bits more
ODD_WIDTH_BITS: Final = 1.3

DEFAULT_CONTEXT: Final = 4_096
CACHE_BYTES: Final = 2
BATCH_TOKENS: Final = 512  # how much of a prompt llama.cpp takes at once
BUFFERS_PER_TOKEN: Final = 12.0  # float32 numbers per hidden unit and token of a batch, as measured
RUNTIME_BYTES: Final[dict[Device, float]] = {"cpu": 65e6, "cuda": 450e6, "mps": 200e6}

# This project's engine on a CPU without bf16, as measured: Python with torch, the weights as stored and as multiplied,
# a cache in float32.
ENGINE_BYTES: Final = 390e6
ENGINE_WEIGHT_BYTES: Final = 8.0
ENGINE_CACHE_BYTES: Final = 4

# Training with LoRA, as node/memory.py counts it for a typical plan.
LORA_RANK: Final = 16
TRAIN_TOKENS: Final = 512  # a batch; more are quicker, and not needed
SPENT_PER_KEPT: Final = 2.7
LOGIT_COPIES: Final = 4.2

# What has to be free for an estimate to be called a fit: most errors are smaller. The cache of a model whose shape is
# not known may be four times that of others of its size.
SAFE: Final = 1.1
SAFE_UNKNOWN: Final = 1.2


@dataclass(frozen=True, slots=True)
class Sizes:
    """What memory and speed follow from, an array over models each. `cached` counts the numbers kept per token."""

    parameters: Floats
    active: Floats
    hidden: Floats
    layers: Floats
    cached: Floats
    vocabulary: Floats
    known: NDArray[np.bool_]  # whether the parameters are known at all
    shaped: NDArray[np.bool_]  # whether layers, heads and width are

    @property
    def safety(self) -> Floats:
        """By what an estimate is multiplied before it is compared with what is free."""
        return np.where(self.shaped, SAFE, SAFE_UNKNOWN)


def sizes_of(candidates: Sequence[Candidate]) -> Sizes:
    """The sizes of candidates; nan parameters where nobody said, usual shapes where only those are missing."""
    shapes = [candidate.architecture for candidate in candidates]
    parameters = _array([candidate.parameters_b for candidate in candidates]) * 1e9
    active = _array([candidate.active_b for candidate in candidates]) * 1e9
    layers = _array([shape.layers for shape in shapes])
    heads, kv_heads = _array([shape.heads for shape in shapes]), _array([shape.kv_heads for shape in shapes])
    hidden, head = _array([shape.hidden for shape in shapes]), _array([shape.head_dim for shape in shapes])
    cached = 2 * layers * _first(kv_heads, heads) * _first(head, hidden / heads)
    usual = _usual(parameters)
    return Sizes(
        parameters=parameters,
        active=_first(active, parameters),
        hidden=_first(hidden, usual.hidden),
        layers=_first(layers, usual.layers),
        cached=_first(cached, usual.cached),
        vocabulary=_first(_array([shape.vocabulary for shape in shapes]), usual.vocabulary),
        known=~np.isnan(parameters),
        shaped=~np.isnan(cached) & ~np.isnan(hidden),
    )


@dataclass(frozen=True, slots=True)
class _Usual:
    hidden: Floats
    layers: Floats
    cached: Floats
    vocabulary: Floats


def _usual(parameters: Floats) -> _Usual:
    """Shapes by size: powers fitted to SmolLM2, Llama 3, Qwen 2.5, Mistral and Gemma 2, 0.1 to 70 B."""
    billions = np.maximum(parameters, 1e6) / 1e9
    return _Usual(
        hidden=2_050 * billions**0.33,
        layers=18.5 * billions**0.33,
        cached=22_500 * billions**0.5,
        vocabulary=np.full_like(billions, 100_000.0),
    )


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes by purpose, an array over models each."""

    weights: Floats
    cache: Floats
    buffers: Floats
    runtime: float

    @property
    def total(self) -> Floats:
        """All of it."""
        return self.weights + self.cache + self.buffers + self.runtime


def inference_need(sizes: Sizes, bits: Floats, context_tokens: Floats | float, device: Device) -> MemoryNeed:
    """What running takes: `bits` per weight, as `bits_of` gives them, one request of `context_tokens`."""
    logits = 4.0 * BATCH_TOKENS * sizes.vocabulary if device != "cpu" else 0.0  # a GPU's graph is laid out in full
    return MemoryNeed(
        weights=sizes.parameters * bits / 8,
        cache=CACHE_BYTES * sizes.cached * context_tokens,
        buffers=4.0 * BATCH_TOKENS * BUFFERS_PER_TOKEN * sizes.hidden + logits,
        runtime=RUNTIME_BYTES[device],
    )


def engine_need(sizes: Sizes, context_tokens: Floats | float) -> MemoryNeed:
    """What a release of the tree takes in the node's own engine, on a CPU in float32."""
    cache = ENGINE_CACHE_BYTES * sizes.cached * context_tokens
    return MemoryNeed(ENGINE_WEIGHT_BYTES * sizes.parameters, cache, np.zeros_like(cache), ENGINE_BYTES)


def training_need(sizes: Sizes, device: Device) -> Floats:
    """What a LoRA fine-tune takes at its peak: rank 16 on all linear modules, 512 tokens a batch, half answers.

    On a CPU weights are float32, on a GPU bf16. In a mixture of experts all are loaded and the active ones computed.
    """
    wide = 2.7 * sizes.hidden  # of the feed-forward part, as usual
    number = 4.0 if device == "cpu" else 2.0
    kept = (6 * sizes.hidden + 2 * sizes.cached / np.maximum(sizes.layers, 1) / 2 + 4 * wide) * number
    activations = SPENT_PER_KEPT * TRAIN_TOKENS * sizes.layers * kept
    adapter = 16 * LORA_RANK * sizes.layers * (8 * sizes.hidden + 3 * (sizes.hidden + wide))
    logits = LOGIT_COPIES * 4 * (TRAIN_TOKENS / 2) * sizes.vocabulary
    weights: Floats = number * sizes.parameters + activations + adapter + logits + RUNTIME_BYTES[device]
    return weights


def bits_of(sizes: Sizes, quantisation: str) -> Floats:
    """Bits per weight, the average over a file, for each model. KeyError for a quantisation not in `BITS`."""
    bits = np.full(sizes.parameters.shape, BITS[quantisation])
    if BITS[quantisation] > OUTPUT_BITS or quantisation in ("NVFP4", "MXFP4", "4BIT", "AWQ", "GPTQ", "INT4"):
        return bits
    # The figure of the table is that of 8 B with an output matrix of 0.5 B: take that out, put this model's in.
    inner = BITS[quantisation] - (OUTPUT_BITS - BITS[quantisation]) * 0.065
    outer = np.minimum(sizes.vocabulary * sizes.hidden / np.maximum(sizes.parameters, 1.0), 0.8)
    odd = np.where((sizes.hidden % K_BLOCK != 0) & (sizes.hidden % 1 == 0), ODD_WIDTH_BITS, 0.0)
    mixed: Floats = inner + (OUTPUT_BITS - inner) * outer + (odd if "_K" in quantisation else 0.0)
    return mixed


def _array(values: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _first(known: Floats, usual: Floats) -> Floats:
    return np.where(np.isnan(known), usual, known)
