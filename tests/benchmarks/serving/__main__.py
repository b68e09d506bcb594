"""Measure serving against its peers; the exit code is 1 where a bound was not kept.

    python -m tests.benchmarks.serving batches-12M adapters-12M --out tests/benchmarks/serving/results.json

Every table is a file with `run(bench, size) -> Table`. Tables of other names that the file of results has stay in it:
each carries its own machine and date. Beside it an SVG is written for each table that is a set of lines.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from node.cli.group import QUIET_LIBRARIES
from tests.benchmarks.__main__ import rounded, write
from tests.benchmarks.rounds import Scale

# Name of a table -> its module here, the size of its model.
TABLES = {
    "lengths-12M": ("lengths", "12M"),
    "lengths-110M": ("lengths", "110M"),
    "batches-12M": ("batches", "12M"),
    "batches-110M": ("batches", "110M"),
    "adapters-12M": ("adapters", "12M"),
    "adapters-12M-all-linear": ("adapters", "12M-all-linear"),
    "adapters-110M": ("adapters", "110M"),
    "prefixes": ("prefixes", "12M"),
    "schemas": ("schemas", "12M"),
    "schemas-110M": ("schemas", "110M"),
    "first-token": ("first_token", "110M"),
    "overhead": ("overhead", "tiny"),
    "bad-input": ("bad_input", "12M"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run what was named, all when nothing is."""
    given = parsed(arguments)
    for name, value in {**QUIET_LIBRARIES, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}.items():
        os.environ.setdefault(name, value)
    pythons = dict(pair.split("=", 1) for pair in given.peer_python)
    kept = True
    for name in given.tables or TABLES:
        text, record, held = measure(name, Scale(given.rounds, given.smallest), given.threads, pythons)
        say(text)
        kept = kept and held
        if given.out:
            write(name, record, given.out)
            from tests.benchmarks.serving.plots import draw

            draw(record, given.out.with_name(f"{name}.svg"))
    return 0 if kept else 1


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--out", type=Path, help="JSON file for the results; without it they are only shown")
    parser.add_argument("--rounds", type=int, help="rounds of each; without it each has its own number")
    parser.add_argument("--smallest", action="store_true", help="the smallest size of each: to see whether it runs")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of every contender")
    parser.add_argument(
        "--peer-python",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help="the Python that has ctranslate2 (with transformers, whose folders it converts) or llama-cpp",
    )
    given = parser.parse_args(arguments)
    if given.rounds is not None and given.rounds < 1:
        parser.error("--rounds: at least 1")
    if any("=" not in pair for pair in given.peer_python):
        parser.error("--peer-python: NAME=PYTHON")
    return given


def measure(name: str, scale: Scale, threads: int, pythons: dict[str, str]) -> tuple[str, dict[str, Any], bool]:
    """Run one table: as text, as data with the machine that it ran on, and whether all bounds were kept."""
    import torch

    from tests.benchmarks.machine import describe_machine
    from tests.benchmarks.serving.bench import Bench

    torch.set_num_threads(threads)
    machine = describe_machine() | {"flags": vector_flags(), "threads": threads}
    module, size = TABLES[name]
    started = time.perf_counter()
    say(f"{name}: from {machine['date']}, load average {machine['load_average'][0]}")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), scale, threads, pythons, say)
        table = importlib.import_module(f"tests.benchmarks.serving.{module}").run(bench, size)
    seconds = round(time.perf_counter() - started, 1)
    record = {"machine": machine, **table.as_data(), "moments": bench.moments, "seconds": seconds}
    return f"{table.as_text()}  ({seconds:.0f} s)\n", rounded(record), not table.broken()


def vector_flags() -> list[str]:
    """What the processor has for matrices, by the names that Linux gives it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return sorted(flag for flag in flags if flag.startswith(("amx", "avx", "fma")))


def say(text: str) -> None:
    """A line for people, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
