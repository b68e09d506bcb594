from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.memory import ModelShape, estimate
from recommender.candidate import Architecture, Candidate
from recommender.memory import BITS, bits_of, inference_need, sizes_of, training_need
from recommender.names import size_in_name
from recommender.speed import SpeedConstants, own_factor, resident_share, shipped_constants, tokens_per_s
from sync.train import TrainPlan

LLAMA_8B = Architecture(layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, vocabulary=128_256)


def model(billions: float | None, *, active: float | None = None, shape: Architecture = Architecture()) -> Candidate:  # noqa: B008
    return Candidate("m", "import", "generative", parameters_b=billions, active_b=active, architecture=shape)


# Sizes of files as their publishers list them (bartowski's and the makers' own GGUF repositories), in GB.
@pytest.mark.parametrize(
    ("billions", "shape", "quantisation", "gigabytes"),
    [
        (8.03, LLAMA_8B, "Q4_K_M", 4.92),
        (8.03, LLAMA_8B, "Q8_0", 8.54),
        (8.03, LLAMA_8B, "F16", 16.07),
        (1.236, Architecture(layers=16, hidden=2048, heads=32, kv_heads=8, vocabulary=128_256), "Q4_K_M", 0.808),
        (3.213, Architecture(layers=28, hidden=3072, heads=24, kv_heads=8, vocabulary=128_256), "Q4_K_M", 2.02),
        (0.494, Architecture(layers=24, hidden=896, heads=14, kv_heads=2, vocabulary=151_936), "Q4_K_M", 0.398),
        (7.62, Architecture(layers=28, hidden=3584, heads=28, kv_heads=4, vocabulary=152_064), "Q4_K_M", 4.68),
        (7.62, Architecture(), "Q4_K_M", 4.68),
        (0.1345, Architecture(layers=30, hidden=576, heads=9, kv_heads=3, vocabulary=49_152), "Q4_K_M", 0.105),
    ],
)
def test_weights_are_within_a_tenth_of_the_published_files(
    billions: float, shape: Architecture, quantisation: str, gigabytes: float
) -> None:
    sizes = sizes_of([model(billions, shape=shape)])
    weights = inference_need(sizes, bits_of(sizes, quantisation), 1.0, "cpu").weights[0] / 1e9
    assert weights == pytest.approx(gigabytes, rel=0.1)


def test_the_cache_follows_from_the_shape() -> None:
    sizes = sizes_of([model(8.03, shape=LLAMA_8B)])
    need = inference_need(sizes, bits_of(sizes, "F16"), 8192.0, "cpu")
    assert need.cache[0] == 2 * 2 * 32 * 8 * 128 * 8192  # 1 GiB, as llama.cpp says when it loads the model


@given(
    billions=st.floats(0.01, 700),
    context=st.integers(1, 1_000_000),
    quantisation=st.sampled_from(sorted(BITS)),
    device=st.sampled_from(["cpu", "cuda", "mps"]),
)
def test_more_never_takes_less(billions: float, context: int, quantisation: str, device: str) -> None:
    sizes = sizes_of([model(billions), model(billions * 1.5)])
    need = inference_need(sizes, bits_of(sizes, quantisation), float(context), device).total  # type: ignore[arg-type]
    longer = inference_need(sizes, bits_of(sizes, quantisation), context * 2.0, device).total  # type: ignore[arg-type]
    assert 0 < need[0] <= need[1]
    assert np.all(need <= longer)
    assert np.all(need >= sizes.parameters * 2 / 8)  # no format has fewer than two bits
    trained = training_need(sizes, device)  # type: ignore[arg-type]
    assert trained[1] >= trained[0] > sizes.parameters[0]


@pytest.mark.parametrize(
    ("billions", "hidden", "wide", "layers", "keys", "vocabulary"),
    [
        (0.13, 576, 1536, 30, 192, 49_152),
        (1.2, 2048, 8192, 16, 512, 128_256),
        (8.0, 4096, 14_336, 32, 1024, 128_256),
    ],
)
def test_training_takes_about_what_the_node_says_before_it_trains(
    billions: float, hidden: int, wide: int, layers: int, keys: int, vocabulary: int
) -> None:
    rows = {"q_proj": hidden, "k_proj": keys, "v_proj": keys, "o_proj": hidden, "up_proj": wide, "gate_proj": wide}
    modules = [(f"{i}.{name}", out, hidden) for i in range(layers) for name, out in rows.items()]
    modules += [(f"{i}.down_proj", hidden, wide) for i in range(layers)]
    shape = ModelShape(int(billions * 1e9), hidden, wide, layers, keys, vocabulary, tuple(modules))
    theirs = estimate(shape, TrainPlan(rank=16, batch_tokens=512, max_tokens=512), "fp32", 0.5).total
    known = Architecture(layers, hidden, hidden // 64, 1, keys, vocabulary)
    ours = training_need(sizes_of([model(billions, shape=known)]), "cpu")[0]
    assert ours == pytest.approx(theirs, rel=0.25)


def test_an_unknown_size_stays_unknown() -> None:
    sizes = sizes_of([model(None), model(7)])
    assert list(sizes.known) == [False, True]
    assert np.isnan(inference_need(sizes, bits_of(sizes, "F16"), 4096.0, "cpu").total[0])


def test_a_mixture_reads_less_and_weighs_as_much() -> None:
    sizes = sizes_of([model(30, active=3), model(30)])
    need = inference_need(sizes, bits_of(sizes, "Q4_K_M"), 4096.0, "cuda")
    assert need.weights[0] == need.weights[1]
    speed = tokens_per_s(sizes.active * 0.6, np.array([True, False]), np.ones(2), 300.0, 40.0, shipped_constants())
    assert 3 < speed[0] / speed[1] < 10


def test_what_lies_in_main_memory_is_read_slowly() -> None:
    c = SpeedConstants(efficiency=0.5, fixed_s=0.0, experts=0.0, spilled=1.0)
    read, dense = np.array([10e9, 10e9]), np.array([False, False])
    speed = tokens_per_s(read, dense, np.array([1.0, 0.5]), 400.0, 40.0, c)
    assert list(speed) == [20.0, 1 / (0.025 + 0.125)]
    assert resident_share(np.array([8e9, 16e9]), 8.0).tolist() == [1.0, 0.5]


def test_own_measurements_correct_the_estimate_and_mistakes_do_not() -> None:
    assert own_factor([]) == 1.0
    assert own_factor([(20, 10), (22, 10), (9_000, 10), (0, 10)]) == pytest.approx(2.1)


@pytest.mark.parametrize(
    ("name", "total", "active", "quantisation"),
    [
        ("Qwen3-30B-A3B-Instruct-2507-Q4_K_M.gguf", 30, 3, "Q4_K_M"),
        ("granite-3.1-1b-a400m-instruct-Q4_K_M.gguf", 1, 0.4, "Q4_K_M"),
        ("SmallThinker-4BA0.6B-Instruct.Q4_K_M.gguf", 4, 0.6, "Q4_K_M"),
        ("SmolLM2-135M-Instruct-Q8_0.gguf", 0.135, 0.135, "Q8_0"),
        ("internlm2_5-1_8b-chat-Q4_K_M.gguf", 1.8, 1.8, "Q4_K_M"),
        ("llama3.1:8b", 8, 8, None),
        ("phi-4-Q4_K_M.gguf", 14.7, 14.7, "Q4_K_M"),
        ("gpt-oss-20b-MXFP4.gguf", 20.9, 3.6, "MXFP4"),
        ("mixtral-8x7b", pytest.approx(46.5, abs=0.5), pytest.approx(12.9, abs=0.3), None),
        ("Qwen2.5-Coder-32B-Instruct-AWQ", 32, 32, "AWQ"),
        ("nothing-v1", None, None, None),
    ],
)
def test_sizes_in_names(name: str, total: float, active: float, quantisation: str) -> None:
    said = size_in_name(name)
    assert (said.parameters_b, said.active_b, said.quantisation) == (total, active, quantisation)
