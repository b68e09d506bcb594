from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from registry.documents import AdapterShape
from sync.delta import (
    CONFIG_FILE,
    Delta,
    Factor,
    norm,
    read_adapter,
    recompress,
    scaled,
    stack,
    targets_of,
    total_norm,
    uniform,
    write_adapter,
    write_peft_folder,
    write_stack,
    zero,
)
from sync.model import load_model
from tests.node.tiny_models import save_tiny

NAMES = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj")
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def whole(rng: torch.Generator, *size: int) -> torch.Tensor:
    """Small whole numbers: their sums and products are exact in float32."""
    return torch.randint(-8, 9, size, generator=rng).float()


@st.composite
def deltas(draw: st.DrawFn, count: int = 1, most_rank: int = 6) -> list[Delta]:
    """Some deltas over the same base, each with modules of its own choice and ranks of their own."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    size = {name: (draw(st.integers(1, 9)), draw(st.integers(1, 9))) for name in NAMES}

    def factor(name: str) -> Factor:
        rank, (n_out, n_in) = draw(st.integers(1, most_rank)), size[name]
        return Factor(whole(rng, rank, n_in), whole(rng, n_out, rank))

    return [
        {name: factor(name) for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))}
        for _ in range(count)
    ]


@settings(max_examples=60, deadline=None)
@given(parts=deltas(count=3))
def test_a_stack_is_exactly_the_sum(parts: list[Delta]) -> None:
    stacked = stack(parts)
    assert stacked.keys() == {name for part in parts for name in part}
    for name, factor in stacked.items():
        members = [part[name] for part in parts if name in part]
        assert factor.rank == sum(member.rank for member in members)
        assert torch.equal(factor.product(), sum((m.product() for m in members), torch.zeros(())))


@settings(max_examples=60, deadline=None)
@given(parts=deltas(), by=st.sampled_from([-1.0, 0.5, 3.0]))
def test_scaling_scales_the_product_and_nothing_else(parts: list[Delta], by: float) -> None:
    for name, factor in scaled(parts[0], by).items():
        assert torch.equal(factor.product(), by * parts[0][name].product())
    assert total_norm(scaled(parts[0], by)) == pytest.approx(abs(by) * total_norm(parts[0]))


@settings(max_examples=60, deadline=None)
@given(parts=deltas(), hidden=st.sampled_from([1.0, 1024.0, 2.0**-12]))
def test_the_norm_is_that_of_the_product_however_the_factors_are_scaled(parts: list[Delta], hidden: float) -> None:
    found = []
    for factor in parts[0].values():
        true = float(factor.product().double().norm())
        assert norm(Factor(factor.a / hidden, factor.b * hidden)) == pytest.approx(true, rel=1e-9, abs=1e-4)
        found.append(true)
    assert total_norm(parts[0]) == pytest.approx(sum(one**2 for one in found) ** 0.5, rel=1e-9, abs=1e-4)


def test_factors_that_cancel_have_no_norm() -> None:
    a, b = torch.randn(1, 30), torch.randn(20, 1)
    assert norm(Factor(torch.cat([a, a]), torch.cat([b, -b], dim=1))) == pytest.approx(0.0, abs=1e-5)


@settings(max_examples=80, deadline=None)
@given(parts=deltas(most_rank=14), rank=st.integers(1, 14))
def test_recompression_is_the_best_of_its_rank_and_tells_its_true_error(parts: list[Delta], rank: int) -> None:
    """Ranks above the dimensions of a module, as stacking makes them, are among the cases."""
    delta = parts[0]
    small, error = recompress(delta, rank)
    assert small.keys() == delta.keys()
    lost = best = 0.0
    for name, factor in delta.items():
        assert small[name].rank <= rank
        true = factor.product().double()
        lost += float((true - small[name].product().double()).norm()) ** 2
        best += float((torch.linalg.svdvals(true)[rank:] ** 2).sum())
    total = total_norm(delta)
    assert error * total == pytest.approx(lost**0.5, rel=1e-4, abs=1e-4 * (1 + total))
    assert lost**0.5 == pytest.approx(best**0.5, rel=1e-4, abs=1e-4 * (1 + total))


@settings(max_examples=40, deadline=None)
@given(parts=deltas(most_rank=14))
def test_recompression_at_full_rank_is_exact(parts: list[Delta]) -> None:
    small, error = recompress(parts[0], 9)  # no module is larger than 9 x 9
    assert error == pytest.approx(0.0, abs=1e-6)
    for name, factor in parts[0].items():
        torch.testing.assert_close(small[name].product(), factor.product(), rtol=1e-4, atol=1e-3)
    assert recompress({}, 4) == ({}, 0.0)


def test_nothing_is_recompressed_that_fits() -> None:
    factor = Factor(torch.randn(3, 8), torch.randn(8, 3))
    small, error = recompress({"m": factor}, 3)
    assert (small["m"], error) == (factor, 0.0)


@settings(max_examples=30, deadline=None)
@given(parts=deltas())
def test_what_is_written_is_what_is_read(parts: list[Delta], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("adapter") / "adapter_model.safetensors"
    shape = write_adapter(parts[0], file)
    found = read_adapter(file, shape)
    assert shape.rank == max(factor.rank for factor in parts[0].values())
    assert (shape.alpha, shape.dtype, shape.targets) == (shape.rank, "F32", targets_of(parts[0]))
    assert found.keys() == parts[0].keys()
    for name, factor in uniform(parts[0]).items():
        assert torch.equal(found[name].a, factor.a)
        assert torch.equal(found[name].b, factor.b)
        assert torch.equal(found[name].product(), parts[0][name].product())
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_an_adapter_of_too_high_a_rank_is_not_written(tmp_path: Path) -> None:
    high = {NAMES[0]: Factor(torch.randn(257, 6), torch.randn(5, 257))}
    with pytest.raises(ValueError, match="256"):
        write_adapter(high, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []
    assert write_stack(high, tmp_path / "a.safetensors").rank == 257


def test_the_scale_of_a_foreign_adapter_counts(tmp_path: Path) -> None:
    delta = {NAMES[0]: Factor(torch.randn(4, 6), torch.randn(5, 4))}
    shape = write_adapter(delta, tmp_path / "a.safetensors")
    louder = AdapterShape(rank=4, alpha=16.0, targets=shape.targets, dtype="F32")
    assert norm(read_adapter(tmp_path / "a.safetensors", louder)[NAMES[0]]) == pytest.approx(4 * norm(delta[NAMES[0]]))


def test_names_in_the_file_are_those_of_peft(tmp_path: Path) -> None:
    write_adapter({NAMES[0]: Factor(torch.ones(1, 2), torch.ones(3, 1))}, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as opened:
        assert sorted(opened.keys()) == [f"base_model.model.{NAMES[0]}.lora_{half}.weight" for half in "AB"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "adapter_model.safetensors"
    shape = write_adapter({NAMES[0]: Factor(torch.ones(1, 2), torch.ones(3, 1))}, file)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_adapter({NAMES[0]: Factor(torch.zeros(1, 2), torch.zeros(3, 1))}, file)
    assert torch.equal(read_adapter(file, shape)[NAMES[0]].product(), torch.ones(3, 2))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks transformers so
def test_peft_loads_the_folder_and_says_the_same_as_the_merged_model(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    rng = torch.Generator().manual_seed(3)
    sizes = {"self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "mlp.down_proj": (32, 64)}
    delta = {
        f"model.layers.{layer}.{module}": Factor(
            torch.randn(2 + layer, n_in, generator=rng), torch.randn(n_out, 2 + layer, generator=rng)
        )
        for layer in range(2)
        for module, (n_out, n_in) in sizes.items()
    }
    shape = write_peft_folder(delta, tmp_path / "adapter", "banyan/tiny")
    config = json.loads((tmp_path / "adapter" / CONFIG_FILE).read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == ("banyan/tiny", 3, 3)
    assert config["target_modules"] == ["down_proj", "k_proj", "q_proj"] == list(shape.targets)
    foreign = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter").eval()
    with torch.no_grad():
        plain = load_model(base, [], "fp32").model(IDS).logits
        merged = load_model(base, [delta], "fp32").model(IDS).logits
        torch.testing.assert_close(foreign(IDS).logits, merged, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(plain, merged, atol=1e-2)


def test_zero_changes_nothing() -> None:
    delta = zero({NAMES[0]: (5, 7)})
    assert torch.equal(delta[NAMES[0]].product(), torch.zeros(5, 7))
    assert total_norm(delta) == 0.0
