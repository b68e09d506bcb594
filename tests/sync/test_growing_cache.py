"""A growing cache holds what transformers' own would, whatever is put behind it and whichever rows leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaConfig

from sync.growing_cache import ROOM, SharedBeginning, growing_cache
from sync.model import LoadedModel, load_model
from tests.node.tiny_models import save_tiny

CONFIG = LlamaConfig(num_hidden_layers=1)
STEPS = st.lists(st.tuples(st.integers(1, ROOM), st.sets(st.integers(0, 3), min_size=1)), min_size=1, max_size=6)


def states(rows: int, tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, tokens, 3, generator=made), torch.randn(rows, 2, tokens, 3, generator=made)


@given(STEPS)
def test_it_holds_what_a_dynamic_cache_holds(steps: list[tuple[int, set[int]]]) -> None:
    ours, theirs, rows = growing_cache(CONFIG), DynamicCache(config=CONFIG), 4
    for seed, (tokens, staying) in enumerate(steps):
        new = states(rows, tokens, seed)
        for held, expected in zip(ours.update(*new, 0), theirs.update(*new, 0), strict=True):
            assert torch.equal(held, expected)
        keep = torch.tensor(sorted(row for row in staying if row < rows) or [0])
        for cache in (ours, theirs):
            cache.batch_select_indices(keep)
        rows = len(keep)
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_a_step_copies_nothing_that_is_here() -> None:
    cache = growing_cache(CONFIG)
    keys, _ = cache.update(*states(4, 10, 0), 0)
    later, _ = cache.update(*states(4, ROOM, 1), 0)
    assert later.data_ptr() == keys.data_ptr()
    beyond, _ = cache.update(*states(4, 1, 2), 0)
    assert beyond.data_ptr() != keys.data_ptr()


def test_under_autocast_it_holds_what_attention_reads() -> None:
    new = states(4, 3, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        keys, values = growing_cache(CONFIG).update(*new, 0)
    assert (keys.dtype, values.dtype) == (torch.bfloat16, torch.bfloat16)
    assert torch.equal(keys, new[0].to(torch.bfloat16))


def logits(loaded: LoadedModel, ids: list[list[int]], cache: Any = None) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = loaded.model(
            input_ids=torch.tensor(ids), past_key_values=cache, use_cache=cache is not None, logits_to_keep=1
        ).logits
    return found[:, -1]


@pytest.mark.parametrize(("family", "changes"), [("llama", {}), ("mistral", {"sliding_window": 4}), ("gemma2", {})])
def test_many_rows_go_on_from_one_beginning_again_and_again(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    loaded, before = load_model(save_tiny(tmp_path, family, **changes), [], "fp32"), [5, 6, 7, 8, 9]
    cache = growing_cache(loaded.model.config)
    logits(loaded, [before], cache)
    begun = SharedBeginning(cache)
    for group in ([[10, 11], [12, 13], [14, 15]], [[16, 17], [18, 19], [20, 21]], [[22, 23]]):
        found = logits(loaded, group, begun.among(len(group)))
        assert torch.allclose(found, logits(loaded, [[*before, *after] for after in group]), atol=1e-5)
