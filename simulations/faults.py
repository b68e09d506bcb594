"""Many seeds of the network with faults: `python -m simulations.faults --seeds 0:10000 [--workers 2] [--out FILE]`.

What did not hold is printed with the command that plays its seed again, and written down. A run that was stopped goes
on where it was: the file says which seeds are done.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from registry.trust.files import write_whole
from simulations.forest import Forest
from simulations.trial import Outcome

MEMORY: Final = Path("/dev/shm")  # noqa: S108  a folder of our own is made in it
BATCH: Final = 100
GARBAGE: Final = 50_000  # objects between two looks for garbage
RESULTS: Final = Path("simulations/results/faults.json")


@dataclass
class Tally:
    """What came of all seeds so far: which are done, as a range, what failed, and sums of the facts."""

    first: int
    done: int = 0
    cpu_s: float = 0.0
    failed: dict[int, list[str]] = field(default_factory=dict)
    facts: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome, cpu_s: float) -> None:
        """Count one seed."""
        self.done += 1
        self.cpu_s += cpu_s
        self.facts.update(outcome.facts)
        if outcome.problems:
            self.failed[outcome.seed] = list(outcome.problems)

    def text(self) -> str:
        """As it is written down."""
        return json.dumps(
            {
                "date": f"{datetime.now(UTC):%Y-%m-%d}",
                "machine": machine(),
                "python": platform.python_version(),
                "first": self.first,
                "seeds": self.done,
                "cpu_s": round(self.cpu_s, 1),
                "cpu_s_per_seed": round(self.cpu_s / max(1, self.done), 3),
                "failed": {str(seed): problems for seed, problems in sorted(self.failed.items())},
                "totals": dict(sorted(self.facts.items())),
            },
            indent=2,
        )


def read_tally(file: Path, first: int) -> Tally:
    """What a run that was stopped has done of the same seeds; nothing where there is no such file."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Tally(first)
    if found["first"] != first:
        return Tally(first)
    failed = {int(seed): list(problems) for seed, problems in found["failed"].items()}
    return Tally(first, found["seeds"], found["cpu_s"], failed, Counter(found["totals"]))


def play_all(seeds: Sequence[int], workers: int) -> Iterator[tuple[Outcome, float]]:
    """The outcome of each seed, in their order, and the seconds of processor time that it took."""
    if workers == 1:
        yield from _timed(seeds)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        batches = (seeds[start : start + BATCH] for start in range(0, len(seeds), BATCH))
        for batch in pool.imap(_batch, batches):
            yield from batch


def machine() -> str:
    """The processor and how many there are."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{os.cpu_count()} x {names[0] if names else platform.machine()}"


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _batch(seeds: Sequence[int]) -> list[tuple[Outcome, float]]:
    return list(_timed(seeds))


def _timed(seeds: Iterable[int]) -> Iterator[tuple[Outcome, float]]:
    logging.disable(logging.CRITICAL)  # lies and faults are what is simulated: they are no news
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        tempfile.tempdir = folder  # python-tuf receives its files there
        forest = Forest(Path(folder))
        gc.freeze()  # what the libraries made is no garbage: looking for some takes a seventh of the time
        gc.set_threshold(GARBAGE)
        for seed in seeds:
            began = time.process_time()
            outcome = forest.play(seed)
            yield outcome, time.process_time() - began
        tempfile.tempdir = None


def replay(seed: int, *, verbose: bool) -> Outcome:
    """Play one seed; with `verbose` every line of its trace is printed."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        return Forest(Path(folder)).play(seed, _print if verbose else lambda line: None)


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if everything held."""
    parser = argparse.ArgumentParser(prog="python -m simulations.faults", description=__doc__)
    parser.add_argument("--seeds", default="0:200", help="FIRST:END, the end not included")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help=f"such as {RESULTS}")
    parser.add_argument("--replay", type=int, metavar="SEED")
    parser.add_argument("--verbose", action="store_true")
    asked = parser.parse_args(arguments)
    if asked.replay is not None:
        return _report([replay(asked.replay, verbose=asked.verbose)])
    first, _, end = asked.seeds.partition(":")
    return _run(int(first), int(end), asked.workers, asked.out)


def _run(first: int, end: int, workers: int, out: Path | None) -> int:
    tally = read_tally(out, first) if out is not None else Tally(first)
    for outcome, cpu_s in play_all(range(first + tally.done, end), workers):
        tally.add(outcome, cpu_s)
        _report([outcome])
        if out is not None and (tally.done % BATCH == 0 or outcome.seed == end - 1):
            out.parent.mkdir(parents=True, exist_ok=True)
            write_whole(out, tally.text().encode() + b"\n")
    sys.stdout.write(f"{tally.done} seeds, {len(tally.failed)} failed, {tally.cpu_s:.0f} s of processor time\n")
    return 1 if tally.failed else 0


def _report(outcomes: Iterable[Outcome]) -> int:
    failed = 0
    for outcome in outcomes:
        for problem in outcome.problems:
            sys.stdout.write(f"seed {outcome.seed}: {problem}\n")
        if outcome.problems:
            failed = 1
            sys.stdout.write(f"  again: python -m simulations.faults --replay {outcome.seed} --verbose\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
