"""Where the engine finds an adapter. Reading it is `lora`'s: who only names one does not wait for torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """A PEFT LoRA file (safetensors). `scale` is alpha / rank; `id` names content and scale together."""

    id: str
    file: Path
    scale: float
