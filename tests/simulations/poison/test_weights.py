"""What attackers send: closed forms on small cohorts, checked on products in full."""

from __future__ import annotations

from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from registry.errors import BadData
from simulations.poison import weights
from simulations.poison.weights import MAX_RANK, Delta
from sync.aggregate.geometry import gram
from sync.delta import Factor, norm, scaled

MODULES = {"model.layers.0.q": (6, 9), "model.layers.0.v": (5, 9), "model.layers.1.q": (6, 9)}


def drawn(seed: int, shift: float = 0.5) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: Factor(
            torch.randn(3, n_in, generator=generator) + shift, torch.randn(out, 3, generator=generator) + shift
        )
        for name, (out, n_in) in MODULES.items()
    }


HONEST = [drawn(seed) for seed in range(8)]


def full(delta: Delta) -> Tensor:
    """All of ΔW as one vector."""
    return torch.cat([delta[name].product().double().flatten() for name in MODULES])


X = torch.stack([full(delta) for delta in HONEST])
MEAN = X.mean(dim=0)


def close(delta: Delta, expected: Tensor, within: float = 1e-5) -> bool:
    return float((full(delta) - expected).norm()) <= within * float(expected.norm())


def test_linear_attacks_are_exact() -> None:
    assert close(weights.sign_flipped(HONEST[0], 2.0), -2 * X[0])
    assert close(weights.replacement(HONEST[0], of=10, attackers=2), 5 * X[0])
    assert close(weights.inner_product(HONEST, 0.5), -0.5 * MEAN)
    assert close(weights.drifted(HONEST[0], HONEST[1], 1, 4), 0.75 * X[0] + 0.25 * X[1])
    assert close(weights.malicious_release(HONEST[0], HONEST[1], 2.0), X[0] + 2 * X[1])


def test_noise_has_the_norms_of_the_honest_update_and_nothing_else_of_it() -> None:
    noise = weights.noise_like(HONEST[0], seed=1)
    assert all(norm(noise[name]) == pytest.approx(norm(HONEST[0][name]), rel=1e-5) for name in MODULES)
    flat = full(weights.noise_like(drawn(0, shift=0.0), seed=1))
    assert abs(float(flat @ X[0])) < 0.5 * float(flat.norm() * X[0].norm())


@pytest.mark.parametrize(("of", "attackers"), [(10, 2), (20, 4), (50, 24)])
def test_alie_is_the_mean_less_z_deviations(of: int, attackers: int) -> None:
    """For 50 workers with 24 corrupt the paper's z is Φ⁻¹(24 / 26) = 1.43."""
    supporters = of // 2 + 1 - attackers
    z = NormalDist().inv_cdf((of - attackers - supporters) / (of - attackers))
    expected = MEAN - z * X.std(dim=0, unbiased=False)
    assert close(weights.little_is_enough(HONEST, of, attackers), expected)
    if of == 50:
        assert z == pytest.approx(1.43, abs=0.005)


def test_mimic_sends_the_update_that_lies_farthest_out() -> None:
    _, _, directions = torch.linalg.svd(X - MEAN, full_matrices=False)
    farthest = int(((X - MEAN) @ directions[0]).abs().argmax())
    assert weights.mimic(HONEST) is HONEST[farthest]


def test_min_max_and_min_sum_reach_their_bounds_and_not_beyond() -> None:
    apart = torch.cdist(X, X)
    for attack, distance, bound in (
        (weights.min_max, lambda m: float((m - X).norm(dim=1).max()), float(apart.max())),
        (weights.min_sum, lambda m: float((m - X).square().sum()), float(apart.square().sum(dim=1).max())),
    ):
        sent = full(attack(HONEST))
        assert distance(sent) == pytest.approx(bound, rel=1e-4)
        cosine = float(sent @ MEAN / sent.norm() / MEAN.norm())
        assert abs(cosine) == pytest.approx(1.0, abs=1e-5), "along the mean"
        assert float(sent @ MEAN) < float(MEAN @ MEAN), "less of it than honest"


def test_a_colluding_pair_is_half_each_and_whole_together() -> None:
    one, other = weights.colluding_pair(HONEST[0], HONEST[1], boost=3.0)
    assert close({n: Factor(torch.cat([one[n].a, other[n].a]), torch.cat([one[n].b, other[n].b], dim=1)) for n in one},
                 X[0] + 3 * X[1])  # fmt: skip
    for half in (one, other):
        taken = [bool((half[name].b == HONEST[0][name].b).all()) for name in MODULES]
        assert sorted(set(taken)) == [False, True]


def test_sybils_are_alike_as_told_and_no_two_the_same() -> None:
    sent = weights.sybils(HONEST[0], 4, apart=0.02, seed=5)
    products = gram(sent)
    lengths = products.diagonal().sqrt()
    cosines = products / lengths[:, None] / lengths[None, :]
    others = cosines[~torch.eye(4, dtype=torch.bool)]
    assert float(others.min()) > 0.999
    assert float(others.max()) < 1 - 1e-6


def test_the_adaptive_attacker_takes_all_that_passes() -> None:
    clean, harmful = HONEST[0], HONEST[1]

    def passes(delta: Delta) -> bool:
        return float((full(delta) - X[0]).norm()) <= 1.5 * float((X[1] - X[0]).norm())

    sent, alpha = weights.adaptive(clean, harmful, passes, most=10.0, steps=40)
    assert passes(sent)
    assert 1.5 / (100 ** (1 / 39)) <= alpha <= 1.5
    assert close(sent, (1 - alpha) * X[0] + alpha * X[1], within=1e-4)
    assert weights.adaptive(clean, harmful, lambda delta: False) == (clean, 0.0)
    with pytest.raises(BadData, match="no steps"):
        weights.adaptive(clean, harmful, passes, steps=1)


def test_no_attack_exceeds_the_rank_that_a_parent_takes() -> None:
    wide = [{"m": Factor(torch.randn(60, 90), torch.randn(80, 60))} for _ in range(3)]
    for sent in (
        weights.little_is_enough(wide, 10, 2), weights.drifted(wide[0], wide[1], 1, 2),
        *weights.sybils(wide[0], 2, 0.1, 1), weights.malicious_release(wide[0], wide[1]),
    ):  # fmt: skip
        assert sent["m"].rank <= MAX_RANK
    assert scaled(wide[0], 1.0)["m"].rank == 60
