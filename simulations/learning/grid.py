"""Many cells on all cores: each is a file that is written whole, so a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from registry.durable import make_folder
from registry.errors import LocalFailure
from registry.trust.files import write_whole
from simulations.learning.playing import Played, Playing, Sources
from simulations.learning.scenario import Scenario, check, check_bound, known_policies
from simulations.workers import spread

if TYPE_CHECKING:
    from simulations.learning.world import World

VERSION: Final = 3  # of what a cell measures: a cell of another is played again
MEMORY: Final = Path("/dev/shm")  # noqa: S108  a folder of our own is made in it
QUIET: Final = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

OnCell = Callable[[int, int, str], None]  # done, total, which


def play_all(
    scenario: Scenario,
    sources: Sources,
    playings: Sequence[Playing],
    workers: int,
    on_cell: OnCell = lambda done, total, which: None,
) -> list[Played]:
    """The cells in the order that they were named; those that were played before are read.

    Raises BadData for a scenario or a policy that cannot be, LocalFailure where the disk is full; what was played until
    then is kept.
    """
    check(scenario)
    known_policies([one.policy for one in playings])
    folder = sources.work / "cells" / scenario_digest(scenario)
    missing = [one for one in playings if not file_of(folder, one).exists()]
    if missing:
        check_bound(scenario)
        make_folder(folder)
    started, done = time.monotonic(), len(playings) - len(missing)
    for number, one in enumerate(_played(scenario, sources, missing, min(workers, len(missing))), 1):
        left_s = (time.monotonic() - started) / number * (len(missing) - number)
        on_cell(done + number, len(playings), f"{name_of(one)}, {left_s / 60:.0f} min left")
    return [Played(one, json.loads(file_of(folder, one).read_bytes())["record"]) for one in playings]


def scenario_digest(scenario: Scenario) -> str:
    """Under which name the cells of a scenario are kept."""
    text = json.dumps([VERSION, asdict(scenario)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def name_of(one: Playing) -> str:
    """A cell in a few words, as its file is named."""
    words = [one.policy, f"seed{one.seed}"]
    if one.attackers:
        words.append(f"{one.attack}-{100 * one.attackers:.0f}")
    words += [word for word, said in (("nogate", not one.gate), ("probes", one.probes)) if said]
    return "-".join(words)


def file_of(folder: Path, one: Playing) -> Path:
    """Where a cell is kept."""
    return folder / f"{name_of(one)}.json"


def _played(scenario: Scenario, sources: Sources, missing: Sequence[Playing], workers: int) -> Iterator[Playing]:
    """Each of the cells once it is on the disk."""
    if not missing:
        return
    from simulations.learning.world import make_world  # with it come the libraries of models

    world = make_world(scenario, sources)  # with the base, which is made once, before workers look for it
    with _disk(), tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as memory:
        if workers == 1:
            yield from map(_Player(world, sources, Path(memory)).play, missing)
            return
        os.environ.update(QUIET)
        yield from spread(_ready, (scenario, sources, Path(memory)), missing, workers)


class _Player:
    """A process at work: its world, and the tree that every cell begins with."""

    def __init__(self, world: World, sources: Sources, memory: Path) -> None:
        from simulations.learning.forming import Seedlings
        from simulations.learning.world import single_threaded

        single_threaded()
        self.memory = memory / f"worker-{os.getpid()}"
        self.memory.mkdir(parents=True, exist_ok=True)
        self.folder = sources.work / "cells" / scenario_digest(world.scenario)
        self.seedlings = Seedlings(world, self.memory / "tree")

    def play(self, one: Playing) -> Playing:
        """Play a cell and write it down."""
        from simulations.learning.cell import play

        with _disk():
            record = play(self.seedlings, one, self.memory)
        text = json.dumps({"of": asdict(one), "record": record}, sort_keys=True, indent=1, allow_nan=False)
        write_whole(file_of(self.folder, one), text.encode() + b"\n")
        return one


@contextmanager
def _disk() -> Iterator[None]:
    """What the disk could not do, in our words."""
    try:
        yield
    except OSError as error:
        raise LocalFailure(
            f"a cell could not be played: {error.strerror or error}",
            "free some disk space (and memory, where /dev/shm is used); the same command then goes on",
        ) from error


def _ready(scenario: Scenario, sources: Sources, memory: Path) -> Callable[[Playing], Playing]:
    from simulations.learning.world import make_world

    return _Player(make_world(scenario, sources), sources, memory).play
