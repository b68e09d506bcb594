"""Studies of what becomes of knowledge on its way through the tree: run them and write what they found.

    python -m tests.benchmarks.knowledge merging --data ../shared/data/tree --work ~/.cache/banyan-studies
    python -m tests.benchmarks.knowledge poisoning --data ../shared/data/tree --work ~/.cache/banyan-studies --workers 2

A study goes on where it was stopped, here or on another machine (`cells.jsonl`). Its record, with the machine and the
date, replaces the one of its name in the file of results; plots are written beside it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from node.cli.group import QUIET_LIBRARIES
from tests.benchmarks.__main__ import rounded, write

STUDIES = ("exactness", "calibrate", "poisoning", "malicious_parent", "merging", "levels", "continual", "grafts")


def main(arguments: list[str] | None = None) -> int:
    """Run what was named, in the order named."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.knowledge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", choices=STUDIES, metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument("--data", type=Path, default=Path("../shared/data/tree"), help="folder with the sets of rows")
    parser.add_argument("--work", type=Path, required=True, help="folder for what takes long and is kept")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"), help="file of results")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds of each")
    parser.add_argument("--workers", type=int, default=1, help="processes of one core each, for what measures no time")
    parser.add_argument("--smallest", action="store_true", help="the smallest size of each: to see whether it runs")
    given = parser.parse_args(arguments)
    if not (given.data / "banking77").is_dir():
        parser.error(f"--data: {given.data} does not hold the sets of rows (banking77 is not there)")
    for name, value in {**QUIET_LIBRARIES, "HF_HUB_OFFLINE": "1"}.items():
        os.environ.setdefault(name, value)
    from tests.benchmarks.knowledge.study import Study, share_cells
    from tests.benchmarks.machine import describe_machine

    study = Study(given.data, given.work, given.seeds, given.smallest, given.workers)
    for name in given.names:
        module = importlib.import_module(f"tests.benchmarks.knowledge.{name}")
        try:
            record = {"machine": describe_machine(), **module.run(study)}
        finally:
            if not given.smallest:
                share_cells(given.work)
        write(name, rounded(record), given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
