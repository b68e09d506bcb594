"""What every study shares: where its rows, its cached work and its results are.

A study is a file of its own with `run(study) -> record`, and is found by its name in `__main__`. Whatever takes long is
kept in the work folder under the digest of all that it follows from, so that a study which was stopped goes on, and two
studies never do the same work twice. The cells of tables stand in `cells.jsonl` as well, which is in the repository: a
grid of hours can be filled on several days and machines. A cell there is of the base whose digest it names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

from node.starter import BUNDLED
from registry.rows import Row, read_rows, read_tree_rows
from registry.trust.files import write_whole
from simulations.learning.trained import digest_of
from simulations.workers import spread

Thing = TypeVar("Thing")
BASE: Final = BUNDLED / "model"
MAX_ROWS_BYTES: Final = 64 << 20
CELLS: Final = Path(__file__).with_name("cells.jsonl")


def shared_cells(file: Path = CELLS) -> dict[str, dict[str, Any]]:
    """The cells that are in the repository, by digest, with what each is of."""
    if not file.exists():
        return {}
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {digest_of(one["of"]): one for one in lines}


@dataclass(frozen=True, slots=True)
class Study:
    """`data` holds the sets of the tree, `work` what was computed; `smallest` is for seeing whether it runs at all."""

    data: Path
    work: Path
    seeds: int = 5
    smallest: bool = False
    workers: int = 1
    say: Callable[[str], None] = print
    shared: dict[str, dict[str, Any]] = field(default_factory=shared_cells)

    def rows(self, name: str, *, lang: str = "", domain: str = "", subdomain: str = "") -> list[Row]:
        """The rows of a set in the places that are named."""
        wanted = {"lang": lang, "domain": domain, "subdomain": subdomain}
        places = [(key, value) for key, value in wanted.items() if value]
        rows = read_tree_rows(self.data / name / f"{name}.train.jsonl")
        return [row for row in rows if all(getattr(row, key) == value for key, value in places)]

    def cell(self, what: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The record of one cell of a table: made by `make`, or read where the same was made before."""
        digest = digest_of(what)
        file = self.work / "cells" / f"{digest}.json"
        if file.exists():
            return dict(json.loads(file.read_text(encoding="utf-8"))["record"])
        if digest in self.shared:
            return dict(self.shared[digest]["record"])
        record = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({"of": what, "record": record}, indent=1).encode())
        return record

    def picture(self, name: str) -> Path:
        """The file of a plot: beside the results, or in the work folder where a study was only tried."""
        return (self.work if self.smallest else CELLS.parent) / f"{name}.svg"

    def each(self, wanted: Sequence[Thing], ready: Callable[[Study], Callable[[Thing], object]]) -> Iterator[Thing]:
        """The wanted, each once a process has made its cells; in their order and unmade where there are no workers.

        `ready(study)`, importable by name, gives what makes the cells of one; what it returns is left there.
        """
        if self.workers < 2:
            yield from wanted
        else:
            yield from spread(_maker, (ready, replace(self, say=_nothing)), wanted, self.workers)


def _maker(ready: Callable[[Study], Callable[[Thing], object]], study: Study) -> Callable[[Thing], Thing]:
    torch.set_num_threads(1)
    make = ready(study)

    def made(one: Thing) -> Thing:
        make(one)
        return one

    return made


def _nothing(text: str) -> None:
    """What a process says beside others: whoever started it says it."""


def share_cells(work: Path, file: Path = CELLS) -> None:
    """Add the cells of tables in a work folder to those of the repository; what is no table's own stays out."""
    found = shared_cells(file)
    for kept in (work / "cells").glob("*.json"):
        cell = json.loads(kept.read_text(encoding="utf-8"))
        if "study" in cell["of"]:
            found[kept.stem] = cell
    if not found:
        return
    lines = sorted(json.dumps(cell, ensure_ascii=False, sort_keys=True) for cell in found.values())
    write_whole(file, "".join(f"{line}\n" for line in lines).encode())


def anchors() -> list[Row]:
    """The rows of old knowledge that the bundled base travels with."""
    return read_rows(BUNDLED / "anchors.jsonl", MAX_ROWS_BYTES)


def known() -> list[Row]:
    """Rows of old knowledge that nothing is trained on: what a parent judges with."""
    return read_rows(BUNDLED / "validation.jsonl", MAX_ROWS_BYTES)
