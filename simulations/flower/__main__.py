"""`python -m simulations.flower`: the rounds of a seed, without a SuperLink."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import simulations.flower
from registry.errors import BadData
from simulations.flower.settings import Settings, check


def main(words: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.flower", description=(simulations.flower.__doc__ or "").partition("\n")[0]
    )
    for name, value in asdict(Settings("", "")).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, required=value == "")
    parser.add_argument("--cores", type=int, default=2, help="cores that children are trained on")
    parser.add_argument("--out", type=Path, help="a JSON file for the outcome")
    given = vars(parser.parse_args(words))
    cores, out = given.pop("cores"), given.pop("out")
    given |= {name: str(Path(given[name]).resolve()) for name in ("base", "rows")}
    settings = Settings(**given)
    try:
        check(settings)
    except BadData as error:
        parser.error(f"{error.message}: {error.hint}")
    if cores < 1:
        parser.error("--cores: at least one is needed")
    from simulations.flower.apps import simulate

    found = json.dumps(simulate(settings, cores), indent=2) + "\n"
    if out:
        out.write_text(found, encoding="utf-8")
    sys.stdout.write(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
