"""The limits of one engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from node.engine.errors import EngineError

Dtype = Literal["auto", "bf16", "fp32"]
Device = Literal["auto", "cpu", "cuda"]

# Field -> (least, most). The upper ends keep sums of them far from any overflow and typing errors from eating memory.
BOUNDS: dict[str, tuple[float, float]] = {
    "threads": (0, 1_024),
    "block_tokens": (1, 1_024),
    "cache_tokens": (1, 1 << 31),
    "max_running": (1, 4_096),
    "chunk_tokens": (2, 1 << 20),
    "max_waiting": (1, 1 << 20),
    "max_wait_s": (0.001, 86_400),
    "adapter_slots": (1, 4_096),
    "max_context": (0, 1 << 24),
}


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What an engine may use and how much it takes on. Raises EngineError when a value is out of bounds."""

    dtype: Dtype = "auto"  # auto: bf16 where the hardware multiplies it, fp32 elsewhere
    device: Device = "auto"
    threads: int = 0  # CPU threads; 0 for all cores
    block_tokens: int = 16  # tokens of one page of the cache
    cache_tokens: int = 32_768  # size of the cache, shared by all requests
    max_running: int = 64  # sequences that are worked on together
    chunk_tokens: int = 512  # most tokens of one step: one per decoding sequence, the rest for prompts
    max_waiting: int = 1_024  # sequences that may wait for their turn
    max_wait_s: float = 120.0  # longest wait for the first turn
    adapter_slots: int = 64  # adapters in memory, and most different ones of one step
    max_context: int = 0  # tokens of prompt and answer together; 0 for what the model was made for

    def __post_init__(self) -> None:
        for field, allowed in (("dtype", get_args(Dtype)), ("device", get_args(Device))):
            if getattr(self, field) not in allowed:
                raise EngineError(f"{field} is {getattr(self, field)!r}", f"choose one of {', '.join(allowed)}")
        for field, (least, most) in BOUNDS.items():
            if not least <= getattr(self, field) <= most:
                raise EngineError(f"{field} is {getattr(self, field)}", f"choose {least} to {most}")
        if self.cache_tokens < self.block_tokens:
            raise EngineError(
                f"a cache of {self.cache_tokens} tokens holds no block of {self.block_tokens}",
                "raise cache_tokens or lower block_tokens",
            )
        if self.chunk_tokens <= self.max_running:
            # Every decoding sequence takes one token of a step; without one left over, prompts might wait for ever.
            raise EngineError(
                f"steps of {self.chunk_tokens} tokens have none left for prompts beside {self.max_running} sequences",
                "raise chunk_tokens above max_running",
            )
