"""Prepared trees for many trials: each shape is grown once, when a seed first asks for it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Final

from simulations.genesis import Tree
from simulations.trial import Outcome, Tell, Trial

SHAPES: Final = ((2, 2, 2), (3, 4), (4, 4), (5, 5))  # 15, 16, 21 and 31 nodes
SHAPE_WEIGHTS: Final = (45, 40, 10, 5)


class Forest:
    """The prepared trees, each made when it is first needed, below a folder that should be in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._trees: dict[tuple[int, ...], Tree] = {}

    def play(self, seed: int, tell: Tell = lambda line: None) -> Outcome:
        """Run one seed; `tell` hears every line of its trace."""
        shape = random.Random(f"shape {seed}").choices(SHAPES, SHAPE_WEIGHTS)[0]  # noqa: S311
        if shape not in self._trees:
            self._trees[shape] = Tree(shape, self._folder / "-".join(map(str, shape)))
        homes = self._folder / "trial"
        try:
            return Trial(seed, self._trees[shape], homes, tell).play()
        finally:
            shutil.rmtree(homes, ignore_errors=True)
