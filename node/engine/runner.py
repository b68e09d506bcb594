"""`Runner`: one base in memory and everything about it that is a tensor.

It runs what a `Step` says and gives logits. Which tokens to run, and what to make of the logits, is for others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence as Many
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from node.engine.adapter_file import AdapterFile
from node.engine.attention import Piece, Pool, only_own
from node.engine.config import EngineConfig
from node.engine.errors import EngineError
from node.engine.forward import Batch, Decoder
from node.engine.lora import AdapterSlots
from node.engine.outline import ModelOutline
from node.engine.rows import Rows
from node.engine.scheduler import Step
from node.engine.weights import read_weights


class Runner:
    """Weights, cache and adapters of one base, on one device.

    `blocks` is the number of cache blocks to give out. Memory: the weights, the cache (`cache_tokens`), and at most as
    much again for dense copies of what is running.
    """

    def __init__(self, base: Path, config: EngineConfig) -> None:
        """Read a base folder. Raises EngineError when its model is not supported or its files are not whole."""
        if config.threads:
            torch.set_num_threads(config.threads)
        self.outline = ModelOutline.from_config(_config(base))
        self.device = torch.device(_device(config))
        self.dtype = _dtype(config, self.device)
        self.blocks = config.cache_tokens // config.block_tokens
        with torch.inference_mode():
            weights = read_weights(base, self.outline, self.dtype, self.device)
            self.pool = Pool(self.outline, self.blocks, config.block_tokens, self.dtype, self.device)
            self.rows = Rows(self.outline, self.pool, config.cache_tokens)
            self.decoder = Decoder(self.outline, weights, self.pool)
        self.adapters = AdapterSlots(self.outline, config.adapter_slots, self.dtype, self.device)

    def load_adapter(self, adapter: AdapterFile) -> None:
        """Have an adapter ready. Idempotent, from any thread, while steps run. Raises EngineError as `AdapterSlots`."""
        self.adapters.load(adapter)

    @torch.inference_mode()
    def run(self, step: Step) -> Tensor:
        """Float32 rows x vocabulary: for every piece in order as many rows as it wants logits (`Piece.logits`)."""
        if step.copies:
            self.pool.copy(step.copies)
        parts = self.rows.segments(step.pieces)
        ordered = [piece for _, pieces in parts for piece in pieces]
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        paths: list[tuple[str, ...]] = []
        ends: dict[int, int] = {}
        for piece in ordered:
            stop = piece.start + piece.count
            tokens += piece.sequence.between(piece.start, stop)
            positions += range(piece.start, stop)
            slots += self.pool.slots(piece.sequence.blocks, piece.start, stop)
            paths += [piece.sequence.adapters] * piece.count
            ends[id(piece)] = len(tokens)
        wanted = [row for piece in step.pieces for row in range(ends[id(piece)] - piece.logits, ends[id(piece)])]
        batch = Batch(
            tokens=self._tensor(tokens),
            positions=self._tensor(positions),
            slots=self._tensor(slots),
            segments=tuple(segment for segment, _ in parts),
            mix=self.adapters.mix(paths),
        )
        hidden = self.decoder.hidden(batch)
        if wanted != list(range(len(hidden))):
            hidden = hidden.index_select(0, self._tensor(wanted))
        return self.decoder.logits(hidden)

    @torch.inference_mode()
    def hidden_means(self, prompts: Many[tuple[int, ...]], adapters: tuple[str, ...]) -> Tensor:
        """The mean over all tokens of the last hidden state (after the final norm), float32 prompts x hidden.

        All of them in one pass, under the same adapters. Nothing is read from the cache or written to it.
        """
        counts = [len(prompt) for prompt in prompts]
        batch = Batch(
            tokens=self._tensor([token for prompt in prompts for token in prompt]),
            positions=torch.cat([torch.arange(count, device=self.device) for count in counts]),
            slots=None,
            segments=tuple(Piece(self.rows.shape, only_own, 0, count) for count in counts),
            mix=self.adapters.mix([adapters] * sum(counts)),
        )
        states = self.decoder.norm(self.decoder.hidden(batch)).float()
        return torch.stack([state.mean(0) for state in states.split_with_sizes(counts)])

    def _tensor(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self.device)


def _config(base: Path) -> dict[str, Any]:
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"config.json of {base} cannot be read: {error}", "fetch the base again") from error
    if not isinstance(config, dict):
        raise EngineError(f"config.json of {base} is not an object", "fetch the base again")
    return config


def _device(config: EngineConfig) -> str:
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise EngineError("there is no CUDA device", "set device to cpu or auto")
    return "cuda" if available and config.device != "cpu" else "cpu"


def _dtype(config: EngineConfig, device: torch.device) -> torch.dtype:
    """bf16 where the hardware multiplies it (AMX, AVX512-BF16, CUDA), float32 elsewhere and on request."""
    if config.dtype != "auto":
        return torch.bfloat16 if config.dtype == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.bfloat16 if wide and torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32  # noqa: SLF001
