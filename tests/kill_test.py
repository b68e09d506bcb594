"""Kill work at random moments and see whether the same command then finishes with the same result.

    python -m tests.kill_test clone finetune publish inbox --times 50 --seed 1
    python -m tests.kill_test daemon --times 1000 --seed 1

What each kind of work is stands in `tests.killed_work`; the daemon's whole cycle in `tests.killed_daemon`, where
`--only NUMBER` repeats one cycle.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from node.cli.group import QUIET_LIBRARIES
from tests.forks import LONGEST_S, prepare
from tests.killed_work import WORKS, Work

DAEMON = "daemon"
ALLOWANCE = 1.05  # kills also fall a little after the usual end


@dataclass(frozen=True)
class Outcome:
    """What went wrong, in words; how many kills came before the end, and how long the work usually takes."""

    problems: list[str]
    killed: int
    usual_s: float


def kill_often(work: Work, times: int, seed: int) -> Outcome:
    """Kill the work `times` times, each at a random moment."""
    work.fresh()
    process, began = work.begin(), time.monotonic()
    process.wait(LONGEST_S)
    usual_s = time.monotonic() - began
    work.finish()
    expected = work.result()
    found = work.problems()
    moments, killed = random.Random(seed), 0
    for number in range(times):
        work.fresh()
        process = work.begin()
        moment_s = moments.uniform(0, usual_s * ALLOWANCE)
        try:
            process.wait(moment_s)
        except TimeoutError:
            process.kill()
            killed += 1
        where = f"kill {number + 1}, {moment_s:.3f} s of {usual_s:.3f} s"
        found += [f"{where}: {problem}" for problem in work.problems()]
        work.finish()
        found += [f"{where}, after it was finished: {problem}" for problem in work.problems()]
        if work.result() != expected:
            found.append(f"{where}: the result is another one")
    return Outcome(found, killed, usual_s)


def kill_test(name: str, folder: Path, times: int, seed: int) -> Outcome:
    """Kill one kind of work."""
    work = WORKS[name](folder)
    try:
        return kill_often(work, times, seed)
    finally:
        work.stop()


def daemon_test(times: int, seed: int, only: int | None) -> int:
    """Kill the processes of a tree; the number of problems."""
    from tests.daemon_tree import Tree
    from tests.faults.shim import compiled
    from tests.killed_daemon import kill_daemons

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(compiled(folder))
        tree = Tree.make(folder / "tree")
        try:
            campaign = kill_daemons(tree, folder, times, seed, only)
        finally:
            tree.stop_all()
    sys.stdout.write(f"{campaign}\n")
    return len(campaign.found)


def main() -> int:
    """Run the kinds that were named; the exit code is 0 when nothing went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", nargs="*", choices=[*WORKS, DAEMON, []], help="which work; all of a command if none")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the number of one cycle of the daemon")
    given = parser.parse_args()
    for name, value in QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    problems = 0
    for name in given.work or WORKS:
        if name == DAEMON:
            problems += daemon_test(given.times, given.seed, given.only)
            continue
        prepare()
        with tempfile.TemporaryDirectory() as folder:
            outcome = kill_test(name, Path(folder), given.times, given.seed)
        summary = (
            f"{name}: {outcome.killed} kills within {outcome.usual_s:.2f} s of work, {len(outcome.problems)} problems"
        )
        sys.stdout.write("\n".join([*outcome.problems, summary]) + "\n")
        sys.stdout.flush()
        problems += len(outcome.problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
