"""Fits the constants of `recommender.speed` on measured runs:

    python -m tests.benchmarks.recommender.calibrate ../shared/data/recommender/llmfit_bench/community.csv

The rows are those of llmfit's community benchmark (MIT): hardware, model, tokens a second, told by anybody. Left out
are rows whose model's size or whose hardware's bandwidth is not known, of several cards under the name of one, faster
than the memory can be read (units mistaken, answers guessed ahead, a mixture whose name does not say so), and repeated
runs of one model on one machine but their median. Nothing is left out for being far from an estimate.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from recommender.candidate import Architecture, Candidate
from recommender.devices import find_device
from recommender.hardware import GIB, Machine, described_machine
from recommender.memory import BITS, DEFAULT_CONTEXT, bits_of, inference_need, sizes_of
from recommender.names import size_in_name
from recommender.speed import CONSTANTS, SpeedConstants, resident_share, tokens_per_s
from registry.errors import BadData

Floats = NDArray[np.float64]

ROOF: Final = 1.25  # of the published bandwidth; nothing reads faster
SEVERAL_CARDS: Final = 1.3  # times the memory of one
USUAL_FILE: Final = "Q4_K_M"  # what Ollama and llama.cpp take where the name says nothing
USUAL_MLX_FILE: Final = "4BIT"
START: Final = SpeedConstants(efficiency=0.8, fixed_s=0.001, experts=0.5, spilled=0.8)
# Errors of the logarithm beyond this count by their size, not its square: a few machines are unlike all others.
ROBUST_SCALE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Run:
    """One model on one machine, as measured."""

    hardware: str
    machine: Machine
    model: str
    candidate: Candidate
    quantisation: str
    tokens_per_s: float


def read_runs(table: Path) -> tuple[list[Run], Counter[str]]:
    """The runs that can be used, and how many were left out for what."""
    left_out: Counter[str] = Counter()
    found: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    with table.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            try:
                run = _run(row)
            except BadData as reason:
                left_out[reason.message] += 1
            else:
                found[row["hardware"], row["provider"], row["model"]].append(run)
    left_out["repeated"] = sum(len(runs) - 1 for runs in found.values())
    return [_middle(runs) for runs in found.values()], left_out


def _run(row: dict[str, str]) -> Run:
    said = size_in_name(row["model"])
    if said.parameters_b is None or (said.quantisation or USUAL_FILE) not in BITS:
        raise BadData("size not known")
    device = find_device(row["hardware"])
    if device is None:
        raise BadData("bandwidth not known")
    if device.memory_gib and float(row["vram_gb"]) > SEVERAL_CARDS * device.memory_gib:
        raise BadData("several cards")
    usual = USUAL_MLX_FILE if "mlx" in f"{row['model']} {row['provider']}" else USUAL_FILE
    # Unified memory that was told is the machine's; of a card it is the card's. Both are GiB.
    memory = 0.75 * float(row["vram_gb"]) if device.unified else float(row["vram_gb"])
    machine = described_machine(device.name, memory_gb=memory * GIB / 1e9, ram_gb=float(row["ram_gb"]) * GIB / 1e9)
    quantisation = said.quantisation or usual
    shape = Architecture(quantisation=quantisation)
    candidate = Candidate(
        row["model"][-300:], "import", "generative", said.parameters_b, said.active_b, architecture=shape
    )
    run = Run(row["hardware"], machine, row["model"], candidate, quantisation, float(row["avg_tps"]))
    if as_arrays([run]).read[0] * run.tokens_per_s > ROOF * device.bandwidth_gb_s * 1e9:
        raise BadData("faster than memory")
    return run


def _middle(runs: list[Run]) -> Run:
    speed = median(run.tokens_per_s for run in runs)
    return min(runs, key=lambda run: abs(run.tokens_per_s - speed))


@dataclass(frozen=True, slots=True)
class Measured:
    """Runs as arrays: what `recommender.speed` asks for, and the tokens a second that were measured."""

    read: Floats
    mixture: NDArray[np.bool_]
    resident: Floats
    need: Floats
    bandwidth_gb_s: Floats
    ram_gb_s: Floats
    tokens_per_s: Floats

    def expected(self, constants: SpeedConstants) -> Floats:
        """Tokens a second by these constants."""
        return tokens_per_s(self.read, self.mixture, self.resident, self.bandwidth_gb_s, self.ram_gb_s, constants)


def as_arrays(runs: Sequence[Run]) -> Measured:
    """What is expected of runs follows from these."""
    sizes = sizes_of([run.candidate for run in runs])
    bits, need = np.zeros(len(runs)), np.zeros(len(runs))
    for name in {run.quantisation for run in runs}:
        bits = np.where([run.quantisation == name for run in runs], bits_of(sizes, name), bits)
    for device in {run.machine.device for run in runs}:
        there = np.array([run.machine.device == device for run in runs])
        need = np.where(there, inference_need(sizes, bits, float(DEFAULT_CONTEXT), device).total, need)
    memory = np.array([run.machine.memory_gb for run in runs])
    return Measured(
        read=sizes.active * bits / 8,
        mixture=np.array([run.candidate.active_b != run.candidate.parameters_b for run in runs]),
        resident=resident_share(need, memory),
        need=need,
        bandwidth_gb_s=np.array([run.machine.bandwidth_gb_s for run in runs]),
        ram_gb_s=np.array([run.machine.ram_gb_s for run in runs]),
        tokens_per_s=np.array([run.tokens_per_s for run in runs]),
    )


def fit(runs: Sequence[Run]) -> SpeedConstants:
    """The constants that fit best, every machine counting as the root of the number of its runs."""
    counts = Counter(run.hardware for run in runs)
    weights = np.array([counts[run.hardware] ** -0.5 for run in runs])
    measured = as_arrays(runs)

    def errors(logs: Floats) -> Floats:
        expected = measured.expected(SpeedConstants(*np.exp(logs)))
        residuals: Floats = weights * np.log(expected / measured.tokens_per_s)
        return residuals

    found = least_squares(errors, np.log(list(asdict(START).values())), loss="soft_l1", f_scale=ROBUST_SCALE)
    return SpeedConstants(*(float(value) for value in np.exp(found.x)))


def cross_validated(runs: Sequence[Run]) -> Floats:
    """The estimate for each run by constants that were fitted without its kind of hardware."""
    speeds = np.zeros(len(runs))
    for hardware in {run.hardware for run in runs}:
        held = [index for index, run in enumerate(runs) if run.hardware == hardware]
        constants = fit([run for run in runs if run.hardware != hardware])
        speeds[held] = as_arrays([runs[index] for index in held]).expected(constants)
    return speeds


def main(arguments: Iterable[str] | None = None) -> None:
    """Write the constants with where they come from and how well they do on machines that were held out."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.recommender.calibrate", description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, default=CONSTANTS)
    given = parser.parse_args(None if arguments is None else list(arguments))
    runs, left_out = read_runs(given.table)
    measured = np.array([run.tokens_per_s for run in runs])
    errors = np.abs(cross_validated(runs) - measured) / measured
    found = {
        "source": "community benchmark of llmfit (MIT), cleaned by tests/benchmarks/recommender/calibrate.py",
        "constants": {name: float(f"{value:.4g}") for name, value in asdict(fit(runs)).items()},
        "runs": len(runs),
        "hardware": sorted({run.hardware for run in runs}),
        "left_out": dict(sorted(left_out.items())),
        "median_error_on_hardware_held_out": round(float(np.median(errors)), 4),
    }
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
