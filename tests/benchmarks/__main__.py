"""Run the benchmarks and write what they found; the exit code is 1 where a bound was not kept.

    python -m tests.benchmarks finetune cold-start --out tests/benchmarks/results.json

Every benchmark is a file of its own with `run(Scale) -> Result`. Results of other names that the file of results has
stay in it: each carries its own machine and date.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from node.cli.group import QUIET_LIBRARIES
from tests.benchmarks.rounds import Result, Scale

NAMES = ("finetune", "cold-start", "clone", "checks", "update-cost", "inbox", "idle-round", "memory")
PLACES = {name: f"tests.benchmarks.{name.replace('-', '_')}" for name in NAMES}
DIGITS = 6


def main(arguments: list[str] | None = None) -> int:
    """Run what was named, all when nothing is."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[*PLACES, []], help="which benchmarks; all when none is named")
    parser.add_argument("--out", type=Path, help="JSON file for the results; without it they are only shown")
    parser.add_argument("--rounds", type=int, help="rounds of each; without it each has its own number, at least 5")
    parser.add_argument("--smallest", action="store_true", help="the smallest size of each: to see whether it runs")
    given = parser.parse_args(arguments)
    if given.rounds is not None and given.rounds < 1:
        parser.error("--rounds: at least 1")
    for name, value in {**QUIET_LIBRARIES, "HF_HUB_OFFLINE": "1"}.items():
        os.environ.setdefault(name, value)
    kept = True
    for name in given.names or PLACES:
        result, record = measure(name, Scale(given.rounds, given.smallest))
        show(name, result)
        kept = kept and not result.broken()
        if given.out:
            write(name, record, given.out)
    return 0 if kept else 1


def measure(name: str, scale: Scale) -> tuple[Result, dict[str, Any]]:
    """Run one benchmark; what it found, also as data with the machine that it ran on."""
    from tests.benchmarks.machine import describe_machine

    machine = describe_machine()
    result: Result = importlib.import_module(PLACES[name]).run(scale)
    machine["load_average_after"] = [round(load, 2) for load in os.getloadavg()]
    return result, rounded({"machine": machine, **result.as_data()})


def rounded(value: Any) -> Any:
    """Data with numbers as exact as they mean anything."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def show(name: str, result: Result) -> None:
    """Write the figures for people."""
    lines = [f"\n{name}"]
    for label, figure in result.figures.items():
        lines.append(f"  {label:42} {figure.median:12,.2f} {figure.unit:9} IQR {figure.iqr:,.2f}")
    lines += [f"  NOT KEPT: {bound}" for bound in result.broken()]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def write(name: str, record: dict[str, Any], file: Path) -> None:
    """Put a result among those in a file."""
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    results[name] = record
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n", encoding="utf-8")
    partial.replace(file)


if __name__ == "__main__":
    sys.exit(main())
