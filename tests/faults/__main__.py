"""Go over a whole daemon cycle with one fault of the disk at a time, at every n-th point of every process.

    python -m tests.faults --kind power --every 7
    python -m tests.faults --kind eio --of parent --at 118

`eio`: one call fails; `enospc`: from a number of bytes on the disk is full, until the process is started anew; `power`:
what was not synced is gone. What must hold afterwards stands in `tests.daemon_cycle`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.daemon_tree import CHILD, OFFER, PARENT, SIBLING, Tree
from tests.faults.cycle import faulty_cycle
from tests.faults.shim import Kind, compiled
from tests.forks import prepare
from tests.killed_daemon import Usual, usual_cycle


def points(usual: Usual, kind: Kind, victim: str, every: int) -> Iterator[int]:
    """The calls before which a fault falls, or the bytes after which."""
    calls = usual.calls[victim]
    for call in range(1 + (every - 1) // 2, calls + 1, every):
        yield call if kind != "enospc" else usual.bytes[victim] * call // calls


def sweep(tree: Tree, folder: Path, kind: Kind, victims: list[str], every: int, at: int | None) -> int:
    """Run the cycles; how many problems they had."""
    usual, found, cycles, fired = usual_cycle(tree, folder / "usual"), 0, 0, 0
    for victim in victims:
        for after in points(usual, kind, victim, every) if at is None else [at]:
            cycle, came = faulty_cycle(tree, usual, victim, kind, after, folder / "fault")
            cycles, fired, found = cycles + 1, fired + came, found + len(cycle.found)
            where = f"--kind {kind} --of {victim} --at {after}"
            sys.stdout.write("".join(f"{where}: {one}\n" for one in cycle.found))
            sys.stdout.flush()
    sys.stdout.write(f"{kind}: {cycles} cycles, the fault came in {fired}, {found} problems\n")
    return found


def main() -> int:
    """Sweep; the exit code is 0 when nothing went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["enospc", "eio", "power"], required=True)
    parser.add_argument("--of", choices=[PARENT, CHILD, SIBLING, OFFER], help="one process; all if none is named")
    parser.add_argument("--every", type=int, default=7)
    parser.add_argument("--at", type=int, help="one point, as a finding names it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(compiled(folder))
        tree = Tree.make(folder / "tree")
        try:
            victims = [given.of] if given.of else [PARENT, OFFER, CHILD, SIBLING]
            return 1 if sweep(tree, folder, given.kind, victims, given.every, given.at) else 0
        finally:
            tree.stop_all()


if __name__ == "__main__":
    sys.exit(main())
