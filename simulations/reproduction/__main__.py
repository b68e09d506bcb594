"""Table 1 of LoRA-A² (arXiv 2410.22815) at a size that two cores play: federated LoRA on banking77 with MiniLM.

    python -m simulations.reproduction --data DATA/tree/banking77 --work WORK --workers 2 --out RESULTS

Cells are files in WORK: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recommender.embed import default_folder
from registry.durable import make_folder
from registry.errors import BadData, BanyanError, LocalFailure
from registry.trust.files import write_whole
from simulations.faults import machine
from simulations.reproduction.findings import findings
from simulations.reproduction.grid import Player, Sources
from simulations.reproduction.methods import known
from simulations.reproduction.plot import draw
from simulations.reproduction.study import Study, run
from simulations.reproduction.table import lines

USUAL = Study()
SMALLEST = replace(USUAL, rounds=2, epochs=1, clients=3, sweep_rounds=1, rates=(3e-3,), most_rows=24)
NAME = "reproduction"
NUMBERS = {
    "rounds": "of each federation",
    "epochs": "of a client in a round",
    "clients": "that share the rows",
    "seeds": "of shares, adapter, head and order",
    "most_rows": "of those to train on",
}


def main(words: Sequence[str]) -> int:
    """The command; 0 where all was played, 1 where something stood in the way, 130 where it was stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.reproduction", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of banking77.train.jsonl")
    parser.add_argument("--work", type=Path, required=True, help="folder for cells")
    parser.add_argument("--out", type=Path, help=f"folder for {NAME}.json, .svg and .txt")
    for name, what in NUMBERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"{what}; default {getattr(USUAL, name)}")
    parser.add_argument("--only", nargs="+", default=[], metavar="METHOD", help=f"of {', '.join(USUAL.methods)}")
    parser.add_argument("--workers", type=int, default=1, help="processes, one core each")
    parser.add_argument("--smallest", action="store_true", help="a few rows, seconds; its figures mean nothing")
    given = vars(parser.parse_args(words))
    try:
        _run(given)
    except BanyanError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"{error.hint}\n" if error.hint else ""))
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on\n")
        return 130
    return 0


def _run(given: dict[str, Any]) -> None:
    asked = {name: given[name] for name in NUMBERS if given[name] is not None}
    study = replace(SMALLEST if given["smallest"] else USUAL, methods=known(given["only"]), **asked)
    for name, value in asked.items():
        if value < 1:
            raise BadData(f"{value} {name} play nothing", f"give --{name.replace('_', '-')} 1 or more")
    player = Player(Sources(given["data"], default_folder(), given["work"]))
    rates, played = run(study, player, given["workers"], _tell)
    found = findings(study, rates, played)
    text = "\n".join(lines(found)) + "\n"
    if given["out"] is not None:
        about = {"date": datetime.now(UTC).date().isoformat(), "machine": machine()}
        _write(given["out"], {**about, **found}, text)
    sys.stdout.write(text)


def _write(out: Path, found: dict[str, Any], text: str) -> None:
    try:
        make_folder(out)
    except OSError as error:
        raise LocalFailure(f"cannot write to {out}: {error.strerror}", "give another --out") from error
    write_whole(out / f"{NAME}.json", json.dumps(found, indent=1, allow_nan=False).encode() + b"\n")
    write_whole(out / f"{NAME}.txt", text.encode())
    write_whole(out / f"{NAME}.svg", draw(found).encode())


def _tell(done: int, total: int, which: str) -> None:
    sys.stderr.write(f"{done} of {total}: {which}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
