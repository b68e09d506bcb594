from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.memory import USABLE, MemoryEstimate, ModelShape, estimate, read_shape, require_fit
from registry.errors import BadData, LocalFailure
from sync.train import ALL_LINEAR, TrainPlan
from tests.node.tiny_models import save_tiny

GIB = 1 << 30


def llama(hidden: int, intermediate: int, layers: int, vocabulary: int) -> ModelShape:
    """The shape of a Llama with as many key-value heads as heads and tied embeddings."""
    wide = {"gate_proj": (intermediate, hidden), "up_proj": (intermediate, hidden), "down_proj": (hidden, intermediate)}
    sizes = {name: wide.get(name, (hidden, hidden)) for name in ALL_LINEAR}
    modules = tuple((f"model.layers.{i}.x.{name}", *size) for i in range(layers) for name, size in sizes.items())
    parameters = vocabulary * hidden + sum(n_out * n_in for _, n_out, n_in in modules) + (2 * layers + 1) * hidden
    return ModelShape(parameters, hidden, intermediate, layers, hidden, vocabulary, modules)


BUNDLED = llama(256, 704, 5, 8192)
SEVEN_BILLION = llama(4096, 11008, 32, 32000)


def test_the_estimate_is_near_what_was_measured() -> None:
    """Whole fine-tunes of a base of these sizes on 500 real rows: bytes at the peak."""
    for precision, peak in (("fp32", 1_305_000_000), ("bf16", 1_155_000_000)):
        assert estimate(BUNDLED, TrainPlan(), precision, 0.497).total == pytest.approx(peak, rel=0.15)


@settings(max_examples=50, deadline=None)
@given(
    batch=st.integers(128, 32768),
    rank=st.integers(1, 128),
    share=st.floats(0.01, 1.0),
    precision=st.sampled_from(["bf16", "fp32"]),
)
def test_more_of_anything_never_takes_less(batch: int, rank: int, share: float, precision: str) -> None:
    plan = TrainPlan(rank=rank, batch_tokens=batch, max_tokens=128)
    here = estimate(BUNDLED, plan, precision, share).total
    assert estimate(BUNDLED, replace(plan, batch_tokens=batch * 2), precision, share).total >= here
    assert estimate(BUNDLED, replace(plan, rank=rank * 2), precision, share).total >= here
    assert estimate(BUNDLED, plan, precision, min(1.0, share * 1.5)).total >= here
    assert estimate(SEVEN_BILLION, plan, precision, share).total > here


def test_a_plan_that_fits_is_let_through() -> None:
    assert isinstance(require_fit(BUNDLED, TrainPlan(), "fp32", 0.3, 16 * GIB), MemoryEstimate)


@settings(max_examples=50, deadline=None)
@given(free=st.integers(500 << 20, 3 * GIB))
def test_a_plan_that_does_not_fit_is_refused_with_settings_that_do(free: int) -> None:
    plan = TrainPlan(batch_tokens=16384)
    with pytest.raises(LocalFailure, match="are free") as caught:
        require_fit(BUNDLED, plan, "fp32", 0.3, free)
    assert "would fit" in caught.value.hint
    words = caught.value.hint.split(" would fit")[0].split()
    options = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    fitting = replace(
        plan,
        batch_tokens=options["--batch-tokens"],
        max_tokens=options.get("--max-tokens", plan.max_tokens),
        rank=options.get("--rank", plan.rank),
    )
    assert estimate(BUNDLED, fitting, "fp32", 0.3).total <= USABLE * free


def test_where_nothing_fits_a_smaller_base_is_named() -> None:
    with pytest.raises(LocalFailure, match="weights 2") as caught:
        require_fit(SEVEN_BILLION, TrainPlan(), "fp32", 0.3, 8 * GIB)
    assert "choose a smaller base" in caught.value.hint


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
def test_the_shape_is_read_from_the_files(family: str, tmp_path: Path) -> None:
    shape = read_shape(save_tiny(tmp_path, family))
    assert (shape.hidden, shape.intermediate, shape.layers, shape.key_values, shape.vocabulary) == (32, 64, 2, 16, 300)
    assert len([name for name, _, _ in shape.modules if name.endswith("q_proj")]) == 2
    assert shape.lora_parameters(4, ("q_proj",)) == 2 * 4 * (32 + 32)


def test_a_configuration_without_sizes_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(BadData, match="hidden_size"):
        read_shape(tmp_path)
