"""Stage 7 on the bundled base: the hidden rows and a transfer set, asked of the model with an update in it.

It is timed once: it takes seconds, and they are the model's. The update is a small random one, so that its answers are
almost those of the release, as an honest update's are on old knowledge; wrong answers are generated and cost more.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import node
from registry.rows import Row, read_rows
from sync.answers import answer
from sync.checks.behaviour import check_behaviour
from sync.delta import Delta, Factor
from sync.model import LoadedModel, add, load_model
from sync.prompt import conversation, prompt_text
from sync.score import evaluate_rows
from tests.benchmarks.rounds import Figure, milliseconds, rates, seconds

NODE = Path(node.__file__).parent
BASE = NODE / "bundled" / "model"
KNOWN = NODE / "bundled" / "validation.jsonl"
TRANSFER = NODE / "demo" / "rows" / "cards.train.jsonl"
PATH, SENDER = "en/finance", "en/finance/cards"
FEW_KNOWN, FEW_TRANSFER = 30, 10
MAX_BYTES = 64 << 20
ANSWER_TOKENS = 64
LOSS_POINTS = 5.0  # as the settings of a node have it


def measure_behaviour(*, few: bool) -> tuple[dict[str, Any], dict[str, Figure]]:
    """How many rows there were, and what loading the model and asking them took."""
    known = read_rows(KNOWN, MAX_BYTES)[: FEW_KNOWN if few else None]
    prompts = read_rows(TRANSFER, MAX_BYTES)[: FEW_TRANSFER if few else None]
    load_s = seconds(lambda: load_model(BASE, []))
    loaded = load_model(BASE, [])
    _, before = evaluate_rows(loaded, known, PATH)
    add(loaded, small_delta(loaded))
    transfer = own_answers(loaded, prompts)

    def check() -> None:
        results = check_behaviour(
            before, loaded, known, transfer, path=PATH, sender=SENDER, max_loss_points=LOSS_POINTS
        )
        for result in results:
            if not result.passed:
                raise RuntimeError(f"{result.name}: {result.reason}")

    check_s = seconds(check)
    figures = {
        "stage 7, loading the model": milliseconds([load_s]),
        "stage 7": milliseconds([check_s]),
        "stage 7, rows": rates("rows/s", len(known) + len(transfer), [check_s]),
    }
    return {"known_rows": len(known), "transfer_rows": len(transfer), "precision": loaded.precision}, figures


def small_delta(loaded: LoadedModel, rank: int = 16, seed: int = 0) -> Delta:
    """A random change of a thousandth of the weights' size in every linear layer."""
    random = torch.Generator().manual_seed(seed)
    delta = {}
    for name, module in loaded.linear_modules():
        n_out, n_in = module.weight.shape
        a, b = torch.randn(rank, n_in, generator=random), torch.randn(n_out, rank, generator=random)
        scale = 1e-3 * float(module.weight.detach().norm()) / float((b @ a).norm())
        delta[name] = Factor(a, b * scale)
    return delta


def own_answers(loaded: LoadedModel, rows: list[Row]) -> list[Row]:
    """The rows with the model's own answers, as a sender writes them."""
    prompts = [prompt_text(loaded.tokenizer, conversation(row, SENDER)) for row in rows]
    return [replace(row, output=text) for row, text in zip(rows, answer(loaded, prompts, ANSWER_TOKENS), strict=True)]
