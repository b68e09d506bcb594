"""Many cells on all cores: each is a file that is written whole, so a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from registry.durable import make_folder
from registry.errors import LocalFailure
from registry.trust.files import write_whole
from simulations.reproduction.cell import DTYPES, Cell, play
from simulations.reproduction.classifier import Classifier
from simulations.reproduction.methods import CENTRALISED
from simulations.reproduction.rows import read_corpus
from simulations.workers import spread

VERSION: Final = 1  # of what a cell measures: a cell of another is played again
QUIET: Final = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "4096",  # batches have hundreds of shapes, each with kernels of its own
}

OnCell = Callable[[int, int, str], None]  # done, total, which and how long the rest will take


@dataclass(frozen=True, slots=True)
class Sources:
    """The folder of banking77, that of the model, and where cells are kept."""

    data: Path
    model: Path
    work: Path


class Player:
    """A process at work: rows and weights are read once; of classifiers it keeps the last one."""

    def __init__(self, sources: Sources) -> None:
        os.environ.update(QUIET)
        torch.set_num_threads(1)
        self.sources, self.corpus = sources, read_corpus(sources.data, sources.model)
        weights = hashlib.sha256((sources.model / "model.safetensors").read_bytes()).hexdigest()
        self._about = [VERSION, self.corpus.digest, weights]
        self._made: tuple[tuple[int, str], Classifier] | None = None

    def file_of(self, cell: Cell) -> Path:
        """Where a cell is kept: by the digest of all that it follows from."""
        text = json.dumps([*self._about, asdict(cell)], sort_keys=True)
        return self.sources.work / "cells" / f"{cell.method}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"

    def play(self, cell: Cell) -> Cell:
        """Play a cell and write it down."""
        key = cell.seed, cell.arithmetic
        if self._made is None or self._made[0] != key:
            made = Classifier(self.sources.model, len(self.corpus.labels), cell.seed, DTYPES[cell.arithmetic])
            self._made = key, made
        record = play(cell, self.corpus, self._made[1])
        text = json.dumps({"of": asdict(cell), "record": record}, sort_keys=True, indent=1, allow_nan=False)
        write_whole(self.file_of(cell), text.encode() + b"\n")
        return cell

    def record(self, cell: Cell) -> dict[str, Any]:
        """What was written down."""
        return dict(json.loads(self.file_of(cell).read_bytes())["record"])


def play_all(player: Player, cells: Sequence[Cell], workers: int, on_cell: OnCell) -> dict[Cell, dict[str, Any]]:
    """The records of all cells, each played once; those that were played before are read.

    Raises BadData for a cell that cannot be played, LocalFailure where the disk is full; what was played is kept.
    """
    wanted = list(dict.fromkeys(cell.checked() for cell in cells))
    try:
        make_folder(player.sources.work / "cells")
    except OSError as error:
        raise LocalFailure(f"cannot work in {player.sources.work}: {error.strerror}", "give another --work") from error
    missing = [cell for cell in wanted if not player.file_of(cell).exists()]
    started, whole, done = time.monotonic(), sum(map(_cost, missing)), 0
    for number, cell in enumerate(_played(player, missing, min(workers, len(missing))), 1):
        done += _cost(cell)
        left_s = (time.monotonic() - started) / done * (whole - done)
        on_cell(len(wanted) - len(missing) + number, len(wanted), f"{name_of(cell)}, {left_s / 60:.0f} min left")
    return {cell: player.record(cell) for cell in wanted}


def name_of(cell: Cell) -> str:
    """A cell in a few words."""
    shared = "all rows" if cell.method == CENTRALISED else f"Dir({cell.alpha:g})"
    return f"{cell.method} {shared} r{cell.rank} seed {cell.seed} rate {cell.learning_rate:g} on {cell.judged}"


def _cost(cell: Cell) -> int:
    """Passes over the rows: what a cell takes is about in proportion."""
    return cell.rounds * cell.epochs


def _played(player: Player, missing: Sequence[Cell], workers: int) -> Iterator[Cell]:
    """Each of the cells once it is on the disk."""
    if workers < 2:
        yield from map(player.play, missing)
        return
    os.environ.update(QUIET)
    yield from spread(_ready, (player.sources,), missing, workers)


def _ready(sources: Sources) -> Callable[[Cell], Cell]:
    return Player(sources).play
