"""A toy world that is quick to learn: a word is answered by its label, whatever number stands behind it.

The base is trained from nothing on `KNOWN` in a second or two; what children learn are tables of other words.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch.nn import functional

from registry.rows import Row
from sync.delta import Delta
from sync.model import LoadedModel, load_model
from sync.tokens import Example, batches, collate, encode, targets
from sync.train import TrainPlan, fit
from tests.node.tiny_models import save_tiny

KNOWN = {"fox": "red", "owl": "sky", "elk": "tan", "ring": "disc", "tile": "cube", "cut": "saw", "hit": "axe"}
SHAPES = {"sun": "disc", "box": "cube", "egg": "oval"}
TOOLS = {"oak": "saw", "nut": "axe", "pin": "awl"}
PATHS = ("en", "en/shapes", "en/tools")
PLAN = TrainPlan(rank=8, alpha=8.0, epochs=10, batch_tokens=512, learning_rate=1.5e-2)


def rows(table: Mapping[str, str], numbers: Iterable[int] = range(12)) -> list[Row]:
    """Every word of a table with every number."""
    return [Row(f"{word} {number}", label) for number in numbers for word, label in table.items()]


def held_out(table: Mapping[str, str]) -> list[Row]:
    """Rows with numbers that nobody is taught."""
    return rows(table, range(60, 70))


def make_base(folder: Path, hidden: int = 64) -> Path:
    """A model folder that knows `KNOWN`, asked as any of the paths."""
    save_tiny(folder, hidden_size=hidden, intermediate_size=2 * hidden, initializer_range=0.1)
    loaded = load_model(folder, [], "fp32")
    encoded = [encode(loaded, Example(row, path), 64) for row in rows(KNOWN) for path in PATHS]
    optimiser = torch.optim.AdamW(loaded.model.parameters(), lr=3e-3)
    rng = random.Random(0)
    for _ in range(7):
        for group in batches(encoded, 512, rng):
            ids, chosen = collate([encoded[i] for i in group], 0, loaded.device)
            loss = functional.cross_entropy(loaded.next_token_logits(ids, chosen), targets(ids, chosen))
            torch.autograd.backward(loss)
            optimiser.step()
            optimiser.zero_grad()
    loaded.model.save_pretrained(folder)
    return folder


def learn(loaded: LoadedModel, taught: Mapping[str, str], path: str, work: Path, plan: TrainPlan = PLAN) -> Delta:
    """The adapter of a child that learns a table as `path` and rehearses what the base knows."""
    examples = [Example(row, path) for row in [*rows(taught, range(20)), *rows(KNOWN)]]
    return fit(loaded, examples, [], plan, work).delta


def share(right: Sequence[bool]) -> float:
    """Accuracy, 0 to 1."""
    return sum(right) / len(right)
