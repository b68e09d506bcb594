from __future__ import annotations

import hashlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.errors import BadData, LocalFailure
from registry.rounds import Half
from sync.delta import Delta, Factor, norm, total_norm, write_adapter
from sync.model import LoadedModel, add, load_model
from sync.score import fits
from sync.tokens import Example, encode
from sync.train import ALL_LINEAR, FitResult, StepReport, TrainPlan, fit, lora
from tests.node.tiny_models import save_tiny
from tests.toy import SHAPES, rows

PLAN = TrainPlan(rank=2, alpha=4.0, epochs=3, batch_tokens=256, learning_rate=1e-2, checkpoint_every_s=0.0)
TRAIN = [Example(row, "en/shapes") for row in rows(SHAPES, range(8))]
VALIDATION = [Example(row, "en/shapes") for row in rows(SHAPES, range(8, 10))]
Q = "model.layers.0.self_attn.q_proj"
EPOCH = 4  # steps


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def loaded(base: Path) -> LoadedModel:
    return load_model(base, [], "fp32")


class Stopped(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


def stop_at(step: int) -> Callable[[StepReport], None]:
    def watch(report: StepReport) -> None:
        if report.step == step:
            raise Stopped

    return watch


def digest(delta: Delta, folder: Path) -> str:
    write_adapter(delta, folder / "adapter.safetensors")
    return hashlib.sha256((folder / "adapter.safetensors").read_bytes()).hexdigest()


def weights(loaded: LoadedModel) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in loaded.model.state_dict().items()}


def same(one: FitResult, other: FitResult, folder: Path) -> bool:
    return (one.steps, one.best_epoch, one.history, digest(one.delta, folder)) == (
        other.steps, other.best_epoch, other.history, digest(other.delta, folder)
    )  # fmt: skip


@pytest.mark.parametrize("every_s", [0.0, 1e9])
@pytest.mark.parametrize("step", [1, 3, 4, 7])
def test_a_run_that_was_ended_goes_on_to_the_same_bits(
    step: int, every_s: float, loaded: LoadedModel, base: Path, tmp_path: Path
) -> None:
    """In the middle of an epoch, at its last step, in the next; with and without checkpoints between."""
    plan = replace(PLAN, checkpoint_every_s=every_s)
    whole = fit(loaded, TRAIN, VALIDATION, plan, tmp_path / "whole")
    assert whole.steps == 3 * EPOCH
    with pytest.raises(Stopped):
        fit(loaded, TRAIN, VALIDATION, plan, tmp_path / "cut", stop_at(step))
    seen: list[int] = []
    fresh = load_model(base, [], "fp32")
    resumed = fit(fresh, TRAIN, VALIDATION, plan, tmp_path / "cut", lambda report: seen.append(report.step))
    assert same(resumed, whole, tmp_path)
    begins = step if every_s == 0.0 else 1 + EPOCH * ((step - 1) // EPOCH)
    assert seen == list(range(begins, 3 * EPOCH + 1))


def test_a_run_that_was_ended_again_and_again_ends(loaded: LoadedModel, tmp_path: Path) -> None:
    whole = fit(loaded, TRAIN, VALIDATION, PLAN, tmp_path / "whole")
    for step in range(2, 3 * EPOCH, 3):
        with pytest.raises(Stopped):
            fit(loaded, TRAIN, VALIDATION, PLAN, tmp_path / "cut", stop_at(step))
    assert same(fit(loaded, TRAIN, VALIDATION, PLAN, tmp_path / "cut"), whole, tmp_path)


def test_a_killed_process_goes_on_to_the_same_bits(loaded: LoadedModel, base: Path, tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from sync.model import load_model
from sync.train import fit
from tests.sync.test_train import PLAN, TRAIN, VALIDATION
def watch(report):
    if report.step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
fit(load_model(Path(sys.argv[1]), [], "fp32"), TRAIN, VALIDATION, PLAN, Path(sys.argv[2]), watch)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, str(base), str(tmp_path / "cut")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (tmp_path / "cut" / "checkpoint.safetensors").exists()
    seen: list[int] = []
    resumed = fit(loaded, TRAIN, VALIDATION, PLAN, tmp_path / "cut", lambda report: seen.append(report.step))
    assert seen[0] == 7
    assert same(resumed, fit(loaded, TRAIN, VALIDATION, PLAN, tmp_path / "whole"), tmp_path)


def test_dropout_of_the_model_does_not_spoil_it(tmp_path: Path) -> None:
    loaded = load_model(save_tiny(tmp_path / "model", attention_dropout=0.5), [], "fp32")
    whole = fit(loaded, TRAIN, [], PLAN, tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(loaded, TRAIN, [], PLAN, tmp_path / "cut", stop_at(4))
    assert same(fit(loaded, TRAIN, [], PLAN, tmp_path / "cut"), whole, tmp_path)


def test_a_run_that_is_done_is_not_done_again(loaded: LoadedModel, tmp_path: Path) -> None:
    first = fit(loaded, TRAIN, VALIDATION, PLAN, tmp_path / "work")
    again = fit(loaded, TRAIN, VALIDATION, PLAN, tmp_path / "work", stop_at(1))
    assert same(first, again, tmp_path)


def test_the_seed_decides(loaded: LoadedModel, tmp_path: Path) -> None:
    plans = [PLAN, PLAN, replace(PLAN, seed=2)]
    found = [digest(fit(loaded, TRAIN, [], plan, tmp_path / str(n)).delta, tmp_path) for n, plan in enumerate(plans)]
    assert found[0] == found[1] != found[2]


def test_the_loss_stands_on_the_answers_only(loaded: LoadedModel, tmp_path: Path) -> None:
    """A new adapter changes nothing, so the first step tells the loss of the base."""
    first: list[float] = []
    plan = replace(PLAN, batch_tokens=1 << 20, epochs=1)
    fit(loaded, TRAIN, [], plan, tmp_path, lambda report: first.append(report.loss))
    nats, tokens = 0.0, 0
    for example in TRAIN:
        one = encode(loaded, example, 512)
        with torch.no_grad():
            logits = loaded.model(torch.tensor([one.ids])).logits[0].log_softmax(-1)
        nats -= sum(float(logits[at - 1, one.ids[at]]) for at in range(one.answer_at, len(one.ids)))
        tokens += len(one.ids) - one.answer_at
    assert first == [pytest.approx(nats / tokens, rel=1e-5)]


def test_the_base_stays_as_it_was(loaded: LoadedModel, tmp_path: Path) -> None:
    before, kinds = weights(loaded), [type(module) for module in loaded.model.modules()]
    attributes = set(vars(loaded.model))
    result = fit(loaded, TRAIN, VALIDATION, PLAN, tmp_path / "a")
    with pytest.raises(Stopped):
        fit(loaded, TRAIN, VALIDATION, PLAN, tmp_path / "b", stop_at(2))
    assert total_norm(result.delta) > 0.01
    assert weights(loaded) == before
    assert [type(module) for module in loaded.model.modules()] == kinds
    assert set(vars(loaded.model)) == attributes
    assert all(parameter.requires_grad and parameter.grad is None for parameter in loaded.model.parameters())


def test_what_is_learned_is_told_truly(loaded: LoadedModel, tmp_path: Path) -> None:
    """The adapter that comes back, added to the base, has the loss of its best epoch."""
    result = fit(loaded, TRAIN, VALIDATION, PLAN, tmp_path)
    losses = [record["loss"] for record in result.history]
    assert losses[-1] < losses[0]
    add(loaded, result.delta)
    found = fits(loaded, [encode(loaded, example, 512) for example in VALIDATION], lambda done: None)
    loss = sum(fit.nats for fit in found) / sum(fit.tokens for fit in found)
    assert loss == pytest.approx(losses[result.best_epoch], rel=1e-3)
    assert set(result.delta) == {f"model.layers.{n}.{block}.{t}" for n in (0, 1) for t in ALL_LINEAR
                                 for block in ("self_attn" if t in ALL_LINEAR[:4] else "mlp",)}  # fmt: skip


def test_the_best_epoch_is_taken_and_a_run_that_gets_worse_stops(loaded: LoadedModel, tmp_path: Path) -> None:
    """Training on other labels than those that are validated makes the validation worse with every epoch."""
    wrong = [replace(example, row=replace(example.row, output=example.row.output[::-1])) for example in VALIDATION]
    plan = replace(PLAN, epochs=9, learning_rate=3e-2, patience=2)
    reports: list[StepReport] = []
    result = fit(loaded, TRAIN, wrong, plan, tmp_path, reports.append)
    best = max(range(len(result.history)), key=lambda n: -result.history[n]["loss"])
    assert result.best_epoch == best
    assert len(result.history) == best + 1 + plan.patience < plan.epochs
    assert result.steps == EPOCH * len(result.history) == len(reports)
    add(loaded, result.delta)
    found = fits(loaded, [encode(loaded, example, 512) for example in wrong], lambda done: None)
    loss = sum(fit.nats for fit in found) / sum(fit.tokens for fit in found)
    assert loss == pytest.approx(result.history[best]["loss"], rel=1e-3)
    assert loss < result.history[-1]["loss"]


def test_without_improvement_a_run_stops_after_its_patience(loaded: LoadedModel, tmp_path: Path) -> None:
    plan = replace(PLAN, epochs=9, learning_rate=0.0, patience=3)
    result = fit(loaded, TRAIN, VALIDATION, plan, tmp_path / "a")
    assert (result.best_epoch, len(result.history)) == (0, 4)
    unwatched = fit(loaded, TRAIN, [], replace(plan, epochs=4), tmp_path / "b")
    assert (unwatched.best_epoch, len(unwatched.history)) == (3, 4)


def random_delta(rank: int, seed: int = 1) -> Delta:
    rng = torch.Generator().manual_seed(seed)
    sizes = {Q: (32, 32), "model.layers.1.mlp.up_proj": (64, 32)}
    return {
        name: Factor(torch.randn(rank, n_in, generator=rng), torch.randn(n_out, rank, generator=rng))
        for name, (n_out, n_in) in sizes.items()
    }


@pytest.mark.parametrize(("rank", "alpha"), [(3, 3.0), (3, 12.0), (5, 2.5)])
def test_a_start_is_taken_as_it_is(rank: int, alpha: float, loaded: LoadedModel, tmp_path: Path) -> None:
    start = random_delta(3)
    plan = replace(PLAN, rank=rank, alpha=alpha, learning_rate=0.0, epochs=1)
    found = fit(loaded, TRAIN, [], plan, tmp_path, start=start).delta
    for name, factor in start.items():
        assert torch.equal(found[name].a[:3], factor.a)
        assert torch.equal(found[name].b[:, :3], factor.b)
        assert torch.equal(found[name].b[:, 3:], torch.zeros(factor.b.shape[0], rank - 3))
    assert all(norm(factor) == 0 for name, factor in found.items() if name not in start)


def test_a_run_begins_with_the_function_of_its_start(loaded: LoadedModel, base: Path) -> None:
    start, ids = random_delta(3), torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        with lora(loaded, replace(PLAN, rank=4, alpha=8.0), start):
            found = loaded.model(ids).logits
        expected = load_model(base, [start], "fp32").model(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_start_that_would_be_cut_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    before = weights(loaded)
    for plan, start in (
        (PLAN, random_delta(3)),
        (replace(PLAN, targets=("q_proj",)), random_delta(2)),
        (PLAN, {"model.layers.7.mlp.up_proj": Factor(torch.ones(1, 32), torch.ones(64, 1))}),
    ):
        with pytest.raises(BadData, match="which the plan has no room for"):
            fit(loaded, TRAIN, [], plan, tmp_path, start=start)
    assert weights(loaded) == before


def test_only_the_targets_are_trained(loaded: LoadedModel, tmp_path: Path) -> None:
    result = fit(loaded, TRAIN, [], replace(PLAN, targets=("q_proj", "down_proj"), epochs=1), tmp_path)
    assert {name.rsplit(".", 1)[1] for name in result.delta} == {"q_proj", "down_proj"}
    assert all(factor.rank == 2 and norm(factor) > 0 for factor in result.delta.values())


def test_nothing_to_train_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no training rows"):
        fit(loaded, [], VALIDATION, PLAN, tmp_path)
    with pytest.raises(BadData, match="no module named c_attn"):
        fit(loaded, TRAIN, [], replace(PLAN, targets=("c_attn",)), tmp_path)


def test_a_loss_that_is_no_number_ends_the_run(loaded: LoadedModel, tmp_path: Path) -> None:
    before = weights(loaded)
    with pytest.raises(LocalFailure, match=r"the loss is .* at step [1-9]") as caught:
        fit(loaded, TRAIN, VALIDATION, replace(PLAN, learning_rate=1e30), tmp_path)
    assert "now 1e+30" in caught.value.hint
    assert weights(loaded) == before


def test_every_step_is_told(loaded: LoadedModel, tmp_path: Path) -> None:
    reports: list[StepReport] = []
    result = fit(loaded, TRAIN, VALIDATION, PLAN, tmp_path, reports.append)
    assert [(report.step, report.total_steps, report.epoch) for report in reports] == [
        (step, 3 * EPOCH, (step - 1) // EPOCH) for step in range(1, 3 * EPOCH + 1)
    ]
    assert [report.validation for report in reports if report.validation] == result.history
    assert [report.step for report in reports if report.validation] == [EPOCH, 2 * EPOCH, 3 * EPOCH]
    assert all(math.isfinite(r.loss) and r.tokens_per_s > 0 and r.seconds_left >= 0 for r in reports)
    assert reports[-1].tokens > reports[0].tokens > 0
    assert reports[-1].seconds_left == 0


def test_the_rate_rises_and_falls(loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *arguments: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    fit(loaded, TRAIN, [], replace(PLAN, warm_up=0.25), tmp_path)
    expected = [1 / 3, 2 / 3, 1.0, *((12 - n) / 9 for n in range(3, 12))]
    assert rates == [pytest.approx(PLAN.learning_rate * part) for part in expected]


def test_prompts_are_learned_where_the_plan_gives_them_weight(loaded: LoadedModel, tmp_path: Path) -> None:
    asked = [replace(example, asks=True) for example in TRAIN]

    def costs(weight: float) -> tuple[float, float]:
        """Nats of the prompts and of the answers after training, told by a model that is asked for both as answers."""
        plan = replace(PLAN, prompt_loss=weight, rank=4, epochs=10)
        delta = fit(loaded, asked, [], plan, tmp_path / str(weight)).delta
        add(loaded, delta)
        encoded = [encode(loaded, example, 512) for example in asked]
        whole = [replace(one, answer_at=one.ask_at or 1) for one in encoded]
        found = [sum(fit.nats for fit in fits(loaded, some, lambda done: None)) for some in (whole, encoded)]
        add(loaded, delta, by=-1.0)
        return found[0] - found[1], found[1]

    plain, asking = costs(0.0), costs(1.0)
    assert asking[0] < 0.99 * plain[0]
    assert asking[1] < 1.5 * plain[1]


def test_prompts_that_are_not_one_s_own_are_not_learned(loaded: LoadedModel, tmp_path: Path) -> None:
    found = [
        digest(fit(loaded, TRAIN, [], replace(PLAN, prompt_loss=weight), tmp_path / str(weight)).delta, tmp_path)
        for weight in (0.0, 1.0)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("half", ["a", "b"])
def test_a_frozen_half_stays_to_the_bit_over_an_end_and_a_new_beginning(
    half: Half, loaded: LoadedModel, tmp_path: Path
) -> None:
    first = fit(loaded, TRAIN, [], replace(PLAN, alpha=2.0, epochs=1), tmp_path / "first").delta
    plan = replace(PLAN, alpha=2.0)
    with pytest.raises(Stopped):
        fit(loaded, TRAIN, [], plan, tmp_path / "run", stop_at(EPOCH + 1), start=first, frozen=half)
    done = fit(loaded, TRAIN, [], plan, tmp_path / "run", start=first, frozen=half).delta
    other = "b" if half == "a" else "a"
    assert all(torch.equal(getattr(done[name], half), getattr(first[name], half)) for name in first)
    assert not any(torch.equal(getattr(done[name], other), getattr(first[name], other)) for name in first)
