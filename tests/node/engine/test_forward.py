"""Every family, alone: the engine's greedy tokens are those of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.node.engine.families import FAMILIES, Bench, expected, load_reference, prompt, save_family

NEW = 24


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_those_of_transformers(tmp_path: Path, family: str) -> None:
    folder = save_family(tmp_path / "base", family)
    reference = load_reference(folder)
    for length in (1, 5, 33):
        bench = Bench(folder, chunk_tokens=65)  # whose cache is empty
        alone = bench.add(prompt(length), NEW)
        bench.run()
        assert alone.output == expected(reference, alone.prompt, NEW)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_those_of_transformers(tmp_path: Path, family: str) -> None:
    """Closer than greedy tokens tell: a random model may choose the same token for wrong reasons."""
    folder = save_family(tmp_path / "base", family)
    bench = Bench(folder)
    given = bench.add(prompt(40), 1)
    given.prompt_logits = True
    step = bench.scheduler.schedule()
    assert step is not None
    logits = bench.runner.run(step)
    with torch.no_grad():
        wanted = load_reference(folder)(torch.tensor([given.prompt])).logits[0]
    assert logits.dtype is torch.float32
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
