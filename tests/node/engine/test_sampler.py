"""Choosing tokens: equal to transformers' processors, one row independent of the others, honest numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from node.engine import sampler
from node.engine.errors import RequestRefused
from node.engine.sampler import NONE, Row, likelihoods, sample, stream_key, uniforms, unpacked
from node.engine.sampling import SamplingParams

VOCABULARY = 97


def params(**given: object) -> SamplingParams:
    return SamplingParams(max_tokens=8, **given)  # type: ignore[arg-type]


def row(
    given: SamplingParams, key: int = 1, position: int = 0, prompt: tuple[int, ...] = (), output: tuple[int, ...] = ()
) -> Row:
    seen = dict.fromkeys(prompt, 0)
    for token in output:
        seen[token] = seen.get(token, 0) + 1
    return Row(given, key, position, seen)


def logits(rows: int, seed: int = 0, vocabulary: int = VOCABULARY) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


def processed(scores: torch.Tensor, one: Row) -> torch.Tensor:
    """What transformers makes of the scores of one row."""
    p = one.params
    tokens = torch.tensor([list(one.seen)])
    steps = LogitsProcessorList()
    if p.logit_bias:
        steps.append(SequenceBiasLogitsProcessor({(token,): float(bias) for token, bias in p.logit_bias.items()}))
    if p.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(p.repetition_penalty))
    if p.temperature != 1:
        steps.append(TemperatureLogitsWarper(p.temperature))
    if p.top_k:
        steps.append(TopKLogitsWarper(p.top_k))
    if p.top_p < 1:
        steps.append(TopPLogitsWarper(p.top_p))
    if p.min_p:
        steps.append(MinPLogitsWarper(p.min_p))
    return steps(tokens, scores[None].clone())[0]


settings_of_rows = st.builds(
    params,
    temperature=st.sampled_from([0.3, 0.8, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 2, 5, 40, 97, 500]),
    top_p=st.sampled_from([0.01, 0.3, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    repetition_penalty=st.sampled_from([0.7, 1.0, 1.8]),
    logit_bias=st.dictionaries(st.integers(0, VOCABULARY - 1), st.sampled_from([-100, -1, 2, 100]), max_size=3),
)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(settings_of_rows, min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_the_distribution_is_that_of_transformers(rows: list[SamplingParams], seed: int) -> None:
    scores = logits(len(rows), seed)
    made = [row(one, prompt=(3, 5, 8), output=(5, 5)) for one in rows]
    heat = torch.tensor([one.temperature for one in rows])[:, None]
    ours = sampler._cut(sampler._adjusted(scores, made, None) / heat, made)
    for got, one, raw in zip(ours, made, scores, strict=True):
        expected = processed(raw, one)
        assert torch.equal(got.isfinite(), expected.isfinite())
        torch.testing.assert_close(got.softmax(-1), expected.softmax(-1))


def test_presence_and_frequency_count_what_was_generated() -> None:
    scores = logits(1)
    one = row(params(presence_penalty=0.5, frequency_penalty=0.25), prompt=(1, 2), output=(2, 4, 4))
    changed = sampler._adjusted(scores, [one], None)[0] - scores[0]
    expected = torch.zeros(VOCABULARY)
    expected[2], expected[4] = -0.75, -1.0
    torch.testing.assert_close(changed, expected)


def test_greedy_takes_the_best_and_leaves_the_logits_alone() -> None:
    scores = logits(4)
    kept = scores.clone()
    rows = [
        row(params(temperature=0)),
        row(params(temperature=0, logit_bias={7: 100})),
        row(params(top_k=1)),
        row(params(top_p=1e-9)),
    ]
    assert sample(scores, rows).tolist() == [scores[0].argmax(), 7, scores[2].argmax(), scores[3].argmax()]
    assert torch.equal(scores, kept)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(settings_of_rows, min_size=2, max_size=6),
    keys=st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6),
    position=st.integers(0, 10_000),
)
def test_a_row_gets_the_same_token_whatever_is_beside_it(
    rows: list[SamplingParams], keys: list[int], position: int
) -> None:
    scores = logits(len(rows), seed=position)
    made = [row(one, key, position, prompt=(3, 4)) for one, key in zip(rows, keys, strict=False)]
    together = sample(scores, made).tolist()
    backwards = sample(scores.flip(0), made[::-1]).tolist()[::-1]
    alone = [int(sample(scores[i : i + 1], [one])[0]) for i, one in enumerate(made)]
    assert together == backwards == alone


def test_draws_follow_the_distribution() -> None:
    scores = torch.tensor([0.5, 0.25, 0.125, 0.125, 0.0]).log()
    draws = 40_000
    rows = [row(params(), key=9, position=i) for i in range(draws)]
    counts = sample(scores.expand(draws, -1), rows).bincount(minlength=5).double()
    expected = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.double) * draws
    assert float(((counts[:4] - expected) ** 2 / expected).sum()) < 16.3  # chi-squared, 3 degrees, 0.1 %
    assert counts[4] == 0


def test_streams_differ_by_seed_choice_and_position() -> None:
    keys = {stream_key(seed, choice) for seed in (-(2**63), -1, 0, 1, 2**64 - 1) for choice in range(10)}
    assert len(keys) == 40  # -1 and 2**64 - 1 are the same 64 bits
    import numpy as np

    u = uniforms(np.full(1000, 5, dtype=np.uint64), np.arange(1000, dtype=np.uint64))
    assert len(set(u.tolist())) == 1000
    assert 0 <= u.min() < u.max() < 1


def test_a_mask_leaves_only_what_is_permitted() -> None:
    allowed = torch.zeros(2, math.ceil(VOCABULARY / 32), dtype=torch.int32)
    allowed[0, 2] = 1 << 5  # token 69
    allowed[1] = -1
    scores = logits(2)
    assert unpacked(allowed, VOCABULARY)[0].nonzero().flatten().tolist() == [69]
    assert sample(scores, [row(params(temperature=0)), row(params(temperature=0))], allowed).tolist() == [
        69,
        scores[1].argmax(),
    ]
    assert int(sample(scores[:1], [row(params(temperature=2.0))], allowed[:1])[0]) == 69


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_of_broken_numbers_gets_no_token_and_harms_no_other(temperature: float, bad: float) -> None:
    scores = logits(3)
    scores[1, 4] = bad
    rows = [row(params(temperature=temperature), key=i) for i in range(3)]
    tokens = sample(scores, rows).tolist()
    assert tokens[1] == NONE
    assert [tokens[0], tokens[2]] == sample(scores[[0, 2]], [rows[0], rows[2]]).tolist()
    nothing = torch.zeros(1, math.ceil(VOCABULARY / 32), dtype=torch.int32)
    assert sample(logits(1), rows[:1], nothing).tolist() == [NONE]


def test_logprobs_are_of_the_model_itself() -> None:
    scores = logits(2)
    first, second = likelihoods(scores, [5, 6], [3, 0])
    expected = scores.log_softmax(-1)
    assert first.logprob == pytest.approx(float(expected[0, 5]))
    best = expected[0].topk(3)
    assert [token for token, _ in first.top] == best.indices.tolist()
    assert [value for _, value in first.top] == pytest.approx(best.values.tolist())
    assert second.top == ()
    assert second.logprob == pytest.approx(float(expected[1, 6]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", True),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_p", 0),
        ("top_p", 1.1),
        ("min_p", -1),
        ("repetition_penalty", 0.009),
        ("repetition_penalty", 101),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -math.inf),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {1: 101.0}),
        ("logit_bias", dict.fromkeys(range(2000), 1.0)),
        ("seed", 2**64),
        ("stop", ("",)),
        ("stop", ("x",) * 17),
        ("stop", ("x" * 257,)),
        ("stop_token_ids", frozenset({-5})),
        ("logprobs", 21),
        ("logprobs", -1),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(RequestRefused) as refused:
        SamplingParams(**{"max_tokens": 5, field: value})  # type: ignore[arg-type]
    assert refused.value.field == field
    assert field in refused.value.message or "stop" in refused.value.message
