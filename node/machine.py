"""What this machine offers a node: disk, memory, processor, libraries. Each look at it is a finding with its remedy."""

from __future__ import annotations

import importlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "warning", "failed"]

LITTLE_DISK_BYTES = 2 << 30
NO_DISK_BYTES = 200 << 20
LITTLE_MEMORY_BYTES = 1 << 30
LIBRARIES = ("torch", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look saw; `remedy` is the step or command that mends it."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def examine_disk(home: Path) -> Finding:
    """Free space where the home is, or will be."""
    folder = next(place for place in (home, *home.parents) if place.exists())
    free = shutil.disk_usage(folder).free
    state: State = "ok" if free >= LITTLE_DISK_BYTES else "warning" if free >= NO_DISK_BYTES else "failed"
    remedy = "" if state == "ok" else "free some space, or move the node: --home FOLDER"
    return Finding("disk", state, f"{free / 2**30:.1f} GiB free at {folder}", remedy)


def examine_memory() -> Finding:
    """Free memory."""
    from recommender.hardware import free_bytes

    free = free_bytes()
    little = free < LITTLE_MEMORY_BYTES
    remedy = "close other programs before loading a model" if little else ""
    return Finding("memory", "warning" if little else "ok", f"{free / 2**30:.1f} GiB free", remedy)


def examine_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    """Cores and the kinds of arithmetic that the processor has; the latter is known on Linux only."""
    from recommender.hardware import cpu_flags

    flags = cpu_flags(cpuinfo)
    native = [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
    wide = [name for name in ("avx512f", "avx2") if name in flags]
    cores = os.cpu_count() or 1
    if native:
        return Finding("processor", "ok", f"{cores} cores, bf16 in hardware ({', '.join(native)})")
    vectors = wide[0] if wide else "no wide vectors known"
    return Finding("processor", "ok", f"{cores} cores, {vectors}; bf16 is not in hardware, fp32 is used")


def examine_libraries() -> Iterator[Finding]:
    """Whether the libraries that touch weights can be imported, and how long that takes."""
    for name in LIBRARIES:
        started = time.monotonic()
        try:
            module = importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a broken library may raise anything, and that is the finding
            remedy = f"install it again: pip install --force-reinstall {name}"
            yield Finding(name, "failed", f"cannot be imported: {type(error).__name__}: {error}", remedy)
            continue
        version = getattr(module, "__version__", "?")
        yield Finding(name, "ok", f"{version}, imported in {time.monotonic() - started:.1f} s")
