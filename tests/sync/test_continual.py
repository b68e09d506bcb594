from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.continual import Protected, grown, protected_by, what_it_reads
from sync.delta import Delta, Factor, norm, scaled, stack
from sync.model import LoadedModel, add, load_model
from sync.score import evaluate_rows
from sync.tokens import Example
from sync.train import TrainPlan, fit
from tests.toy import KNOWN, SHAPES, TOOLS, held_out, rows, share

PLAN = TrainPlan(rank=8, alpha=8.0, epochs=8, batch_tokens=512, learning_rate=1.5e-2)
PATH = "en/shapes"
CPU = torch.device("cpu")


@pytest.fixture
def continued(toy_base: Path, toy_adapters: dict[str, Delta]) -> LoadedModel:
    """The model with what was learned first in it."""
    return load_model(toy_base, [toy_adapters["en/shapes"]], "fp32")


def new_factors(loaded: LoadedModel, work: Path, protected: Protected | None, epochs: int = 8) -> Delta:
    examples = [Example(row, PATH) for row in [*rows(TOOLS, range(20)), *rows(KNOWN)]]
    return fit(loaded, examples, [], replace(PLAN, epochs=epochs), work, protected=protected).delta


def test_new_factors_never_touch_the_strongest_directions(
    continued: LoadedModel, toy_adapters: dict[str, Delta], tmp_path: Path
) -> None:
    protected = protected_by("osf", continued, toy_adapters[PATH], PLAN.targets)
    assert protected is not None
    new = new_factors(continued, tmp_path, protected, epochs=2)
    assert new.keys() == protected.inputs.keys() == protected.outputs.keys()
    for name, module in continued.linear_modules():
        u, s, vt = torch.linalg.svd(module.weight.detach(), full_matrices=False)
        half = len(s) // 2
        product = new[name].product()
        assert float(product.norm()) > 1e-3
        assert float((u[:, :half].T @ product).norm()) < 1e-4 * float(product.norm())
        assert float((product @ vt[:half].T).norm()) < 1e-4 * float(product.norm())


def test_a_penalty_turns_new_factors_away_from_what_the_old_ones_read(
    continued: LoadedModel, toy_adapters: dict[str, Delta], tmp_path: Path
) -> None:
    old = toy_adapters[PATH]
    reads = what_it_reads(old, CPU)

    def overlap(delta: Delta) -> float:
        parts = [((f.a @ reads.inputs[name].T).square().sum(), f.a.square().sum()) for name, f in delta.items()]
        return float(sum(part for part, _ in parts)) / float(sum(whole for _, whole in parts))

    plain = new_factors(continued, tmp_path / "plain", None, epochs=3)
    turned = new_factors(
        continued, tmp_path / "orthogonal", protected_by("orthogonal", continued, old, PLAN.targets), 3
    )
    assert overlap(turned) < 0.05 < overlap(plain)


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.01, 100), seed=st.integers(0, 99), spare=st.integers(0, 3))
def test_what_an_adapter_reads_does_not_depend_on_how_it_is_written(scale: float, seed: int, spare: int) -> None:
    torch.manual_seed(seed)
    a, b = torch.randn(3, 12), torch.randn(7, 3)
    mixed = torch.randn(3, 3) + 3 * torch.eye(3)
    padded = torch.cat([scale * mixed @ a, torch.zeros(spare, 12)])
    one = what_it_reads({"m": Factor(a, b)}, CPU).inputs["m"]
    other = what_it_reads({"m": Factor(padded, torch.zeros(7, 3 + spare))}, CPU).inputs["m"]
    assert one.shape == other.shape == (3, 12)
    torch.testing.assert_close(one.T @ one, other.T @ other, atol=1e-3, rtol=0)


def test_an_adapter_that_reads_nothing_protects_nothing() -> None:
    nothing = what_it_reads({"m": Factor(torch.zeros(2, 5), torch.zeros(4, 2))}, CPU)
    assert nothing.inputs == {}
    assert nothing.cost({"m.a": torch.ones(2, 5)}) is None


@pytest.mark.parametrize("method", ["plain", "replay"])
def test_methods_of_rows_protect_no_directions(
    method: str, continued: LoadedModel, toy_adapters: dict[str, Delta]
) -> None:
    assert protected_by(method, continued, toy_adapters[PATH], PLAN.targets) is None  # type: ignore[arg-type]


def test_old_and_new_become_one_adapter_within_the_bound(toy_adapters: dict[str, Delta]) -> None:
    old, new = toy_adapters["en/shapes"], toy_adapters["en/tools"]
    whole, error = grown(old, new, 64)
    assert error == 0
    assert {factor.rank for factor in whole.values()} == {16}
    bounded, error = grown(old, new, 10)
    assert {factor.rank for factor in bounded.values()} == {10}
    off = stack([stack([old, new]), scaled(bounded, -1.0)])
    lost = sum(norm(f) ** 2 for f in off.values()) / sum(norm(f) ** 2 for f in stack([old, new]).values())
    assert error == pytest.approx(lost**0.5, rel=1e-3)
    assert error > 0


@pytest.mark.parametrize("method", ["orthogonal", "osf"])
def test_both_are_known_after_going_on(
    method: str, continued: LoadedModel, toy_adapters: dict[str, Delta], toy_base: Path, tmp_path: Path
) -> None:
    old = toy_adapters[PATH]
    protected = protected_by(method, continued, old, PLAN.targets)  # type: ignore[arg-type]
    new = new_factors(continued, tmp_path, protected)
    both, _ = grown(old, new, 64)
    after = load_model(toy_base, [], "fp32")
    add(after, both)
    assert share(evaluate_rows(after, held_out(TOOLS), PATH)[1]) >= 0.9
    assert share(evaluate_rows(after, held_out(SHAPES), PATH)[1]) > 0.3


def test_a_protected_run_that_was_ended_goes_on_to_the_same_bits(
    continued: LoadedModel, toy_adapters: dict[str, Delta], toy_base: Path, tmp_path: Path
) -> None:
    class Stopped(BaseException):
        pass

    def stop(report: object) -> None:
        if getattr(report, "step", 0) == 3:
            raise Stopped

    old = toy_adapters[PATH]
    plan = replace(PLAN, epochs=2, checkpoint_every_s=0.0)
    examples = [Example(row, PATH) for row in rows(TOOLS, range(20))]
    for method in ("orthogonal", "osf"):
        protected = protected_by(method, continued, old, plan.targets)
        whole = fit(continued, examples, [], plan, tmp_path / f"{method}-whole", protected=protected)
        with pytest.raises(Stopped):
            fit(continued, examples, [], plan, tmp_path / method, stop, protected=protected)
        fresh = load_model(toy_base, [old], "fp32")
        again = protected_by(method, fresh, old, plan.targets)
        resumed = fit(fresh, examples, [], plan, tmp_path / method, protected=again)
        for name, factor in whole.delta.items():
            assert torch.equal(factor.a, resumed.delta[name].a)
            assert torch.equal(factor.b, resumed.delta[name].b)
