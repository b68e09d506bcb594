"""How well the assistant understands: slot F1, joint accuracy and time, on annotated dialogues, beside simple parsers.

    python -m tests.benchmarks.assistant --data ../shared/data/assistant --out tests/benchmarks/assistant/results.json

Every `*.jsonl` of `--data` is a set, and so are the three of this folder: `own.jsonl`, on which the parser was
developed, `held.jsonl`, which was written at the same time and first looked at when it was measured, and
`unnamed.jsonl`, which says task and domain in unusual words. "guesses as rules" takes wishes by meaning as if they were
rules: what they find where words find nothing, and what they would break elsewhere.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

from assistant.extract import extract
from assistant.meaning import extract_near
from recommender.embed import embed
from tests.benchmarks.assistant.baselines import forgetful, last_turn, nothing, patterns
from tests.benchmarks.assistant.scores import Report, compare

Parser = Callable[[Sequence[str]], dict[str, Any]]


def guessed(turns: Sequence[str]) -> dict[str, Any]:
    """The rules, and the task and domain that were guessed."""
    found, near = extract(turns), extract_near(turns, embed)
    wished = {slot: getattr(near, slot) for slot in ("task", "domain") if getattr(found, slot) is None}
    return found.rules() | {slot: wish.value for slot, wish in wished.items() if wish is not None}


HERE: Final = Path(__file__).parent
PARSERS: Final[dict[str, Parser]] = {
    "extract": lambda turns: extract(turns).rules(),
    "guesses as rules": guessed,
    "nothing": nothing,
    "patterns": patterns,
    "last turn only": last_turn,
    "no corrections": forgetful,
}


def main(arguments: list[str] | None = None) -> int:
    """Measure every parser on every set."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.assistant",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="folder with sets of annotated dialogues")
    parser.add_argument("--only", nargs="*", help="names of sets; all when none is named")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    given = parser.parse_args(arguments)
    sets = sorted(HERE.glob("*.jsonl")) + (sorted(given.data.glob("*.jsonl")) if given.data else [])
    if given.data and not given.data.is_dir():
        parser.error(f"--data: {given.data} is not a folder")
    from tests.benchmarks.__main__ import rounded
    from tests.benchmarks.machine import describe_machine

    record: dict[str, Any] = {"machine": describe_machine(), "sets": {}}
    for file in sets:
        if not given.only or file.stem in given.only:
            record["sets"][file.stem] = measure(file)
            show(file.stem, record["sets"][file.stem])
    if given.out:
        given.out.write_text(json.dumps(rounded(record), indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 0


def measure(file: Path) -> dict[str, Any]:
    """Every parser on the dialogues of one file, and how long ours takes for each of them when warm."""
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    found: dict[str, Any] = {}
    for name, parse in PARSERS.items():
        report = Report([compare(parse(row["turns"]), row["gold"], row["tags"]) for row in rows]).as_data()
        found[name] = report if name == "extract" else {key: report[key] for key in ("slot_f1", "joint_accuracy")}
    taken_ms = sorted(_milliseconds(row["turns"]) for row in rows)
    found["extract"]["ms"] = {"median": taken_ms[len(taken_ms) // 2], "p95": quantiles(taken_ms, n=20)[-1]}
    return found


def _milliseconds(turns: Sequence[str]) -> float:
    started = time.perf_counter()
    extract(turns)
    return (time.perf_counter() - started) * 1000


def show(name: str, found: dict[str, Any]) -> None:
    """One line for each parser."""
    for parser, report in found.items():
        f1, joint = report["slot_f1"], report["joint_accuracy"]
        time_ms = f"  p95 {report['ms']['p95']:.1f} ms" if "ms" in report else ""
        sys.stdout.write(
            f"{name:6} {parser:16} slot F1 {f1['value']:.3f} [{f1['low']:.3f}, {f1['high']:.3f}]  "
            f"joint {joint['value']:.3f} [{joint['low']:.3f}, {joint['high']:.3f}]{time_ms}\n"
        )


if __name__ == "__main__":
    sys.exit(main())
