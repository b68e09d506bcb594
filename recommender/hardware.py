"""The machine that models are chosen for: this one, as measured, or another, as described.

Nothing of torch is imported: drivers are asked through their own small programs and files, so that this is quick.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import psutil

from recommender.constraints import Device
from recommender.devices import DeviceKind, find_device
from registry.errors import BadData

GIB: Final = 1 << 30
GB: Final = 1e9

# What a described machine is taken to have where nobody said: dual-channel DDR4-3200 reaches about 80 % of 51 GB/s.
USUAL_RAM_GB_S: Final = 40.0
USUAL_GPU_GB_S: Final = 250.0  # a card that no table names: the slower of those that are sold for models
USUAL_RAM_GB: Final = 16.0
# Of unified memory macOS lets the GPU have about 3/4 (Metal's recommendedMaxWorkingSetSize on larger machines).
UNIFIED_SHARE: Final = 0.75

_NVIDIA_QUERY: Final = ("--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")
_NVIDIA_WAIT_S: Final = 5.0
_MEASURED_BYTES: Final = 32 << 20  # of each thread; larger than what caches hold of it
_MEASURED_ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Machine:
    """What a model may use. Memory in GB of 10^9 bytes that are free for it, bandwidth in GB (10^9) a second.

    `device` is where models run; `memory_gb` and `bandwidth_gb_s` are of its memory. What does not fit there can lie
    in `ram_gb` and is read with `ram_gb_s`; on a machine that computes on the CPU, and where memory is unified, both
    are the same. `bf16` says whether the CPU computes in bf16 by hardware.
    """

    name: str
    device: Device
    memory_gb: float
    bandwidth_gb_s: float
    ram_gb: float
    ram_gb_s: float
    cores: int = 4
    bf16: bool = False
    unified: bool = False

    def __post_init__(self) -> None:
        sizes = (self.memory_gb, self.bandwidth_gb_s, self.ram_gb, self.ram_gb_s)
        if not all(0 < size < float("inf") for size in sizes) or self.cores < 1:
            raise BadData("memory, bandwidth and cores of a machine are positive numbers", "for example --memory-gb 8")


def this_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    """The machine that this runs on. Its bandwidth is measured once per process, in about a tenth of a second."""
    flags = cpu_flags(cpuinfo)
    cores = os.cpu_count() or 1
    ram_gb, ram_gb_s = max(free_bytes(), 1) / GB, measured_bandwidth(cores)
    bf16 = bool(flags & {"amx_bf16", "avx512_bf16"})
    gpu = _nvidia() or _amd()
    if gpu:
        name, free = gpu
        kind = find_device(f"{name} {free / GIB:.0f} GB")
        speed = kind.bandwidth_gb_s if kind else USUAL_GPU_GB_S
        return Machine(name, "cuda", free / GB, speed, ram_gb, ram_gb_s, cores, bf16)
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        kind = find_device(platform.processor()) or find_device(_apple_name())
        speed = kind.bandwidth_gb_s if kind else ram_gb_s
        return Machine(_apple_name(), "mps", UNIFIED_SHARE * ram_gb, speed, ram_gb, speed, cores, bf16, unified=True)
    return Machine("this machine (CPU)", "cpu", ram_gb, ram_gb_s, ram_gb, ram_gb_s, cores, bf16)


def described_machine(
    said: str = "",
    *,
    device: Device | None = None,
    memory_gb: float | None = None,
    ram_gb: float = USUAL_RAM_GB,
) -> Machine:
    """A machine from words and numbers, such as ("RTX 3060 12 GB"), or device "cpu" and 8 GB.

    A number beats what the table says; memory of a card is published in GiB. Raises BadData where the words name no
    device of the table and nothing else says what it is.
    """
    kind = find_device(said) if said else None
    if said and kind is None and (device is None or memory_gb is None):
        raise BadData(
            f"no device is known by the name {said!a:.80}",
            "say --device and --memory-gb as well, or a name such as 'RTX 3060'",
        )
    found = device or (kind.device if kind else "cpu")
    if kind is not None and kind.device == found:
        return _of_kind(kind, memory_gb, ram_gb)
    memory = memory_gb or ram_gb
    if found == "cpu":
        return Machine("CPU", "cpu", memory, USUAL_RAM_GB_S, memory, USUAL_RAM_GB_S)
    speed = find_device("Apple M1") if found == "mps" else None
    bandwidth = speed.bandwidth_gb_s if speed else USUAL_GPU_GB_S
    return Machine(found, found, memory, bandwidth, ram_gb, USUAL_RAM_GB_S, unified=found == "mps")


def _of_kind(kind: DeviceKind, memory_gb: float | None, ram_gb: float) -> Machine:
    published = kind.memory_gib * GIB / GB if kind.memory_gib else UNIFIED_SHARE * ram_gb
    memory = memory_gb or published
    ram_speed = kind.bandwidth_gb_s if kind.unified else USUAL_RAM_GB_S
    ram = max(memory, ram_gb) if kind.unified else ram_gb
    return Machine(kind.name, kind.device, memory, kind.bandwidth_gb_s, ram, ram_speed, unified=kind.unified)


def cpu_flags(cpuinfo: Path) -> set[str]:
    """What Linux says of the processor; nothing elsewhere."""
    if not cpuinfo.exists():
        return set()
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def free_bytes(control_group: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that this process may still take: of the machine, and of its container where that has less."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((control_group / "memory.max").read_text())
        used = int((control_group / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or "max"
        return free
    return min(free, max(0, limit - used))


@lru_cache(maxsize=4)
def measured_bandwidth(threads: int) -> float:
    """GB a second that this many threads read and write together, the best of a few rounds: a copy counts twice."""
    sources = [np.ones(_MEASURED_BYTES // 8) for _ in range(threads)]
    targets = [np.empty_like(source) for source in sources]
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_MEASURED_ROUNDS + 1):  # the first touches the pages
            started = time.perf_counter()
            list(pool.map(np.copyto, targets, sources))
            best = min(best, time.perf_counter() - started)
    return 2 * threads * _MEASURED_BYTES / best / GB


def _nvidia() -> tuple[str, int] | None:
    """Name and free bytes of the NVIDIA GPU with most memory, where its driver answers."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        answer = subprocess.run(
            [program, *_NVIDIA_QUERY], capture_output=True, text=True, timeout=_NVIDIA_WAIT_S, check=True
        )
        cards = [line.rsplit(", ", 2) for line in answer.stdout.splitlines() if line.count(", ") >= 2]
        found = max(((name, int(free) << 20) for name, _, free in cards), key=lambda card: card[1], default=None)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return found if found and found[1] > 0 else None


def _amd(cards: Path = Path("/sys/class/drm")) -> tuple[str, int] | None:
    """Name and free bytes of the AMD GPU with most memory, as Linux tells of it."""
    found: list[tuple[str, int]] = []
    for total in sorted(cards.glob("card*/device/mem_info_vram_total")):
        try:
            free = int(total.read_text()) - int(total.with_name("mem_info_vram_used").read_text())
        except (OSError, ValueError):
            continue
        if free > GIB:  # less is a display of the processor's own
            product = total.with_name("product_name")
            found.append((product.read_text().strip() if product.exists() else "AMD GPU", free))
    return max(found, key=lambda card: card[1], default=None)


def _apple_name() -> str:
    """The chip, such as "Apple M4 Pro"."""
    try:
        answer = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"],
            check=False,
            capture_output=True,
            text=True,
            timeout=_NVIDIA_WAIT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return "Apple"
    return answer.stdout.strip() or "Apple"
