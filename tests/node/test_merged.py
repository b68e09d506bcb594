"""Merged weights that are made while they are read, and stacked adapters that are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from node import merged
from node.merged import MergedFile, merged_files
from node.stacked import StackedAdapters, stacked_shape
from registry.errors import BadData
from sync.delta import Delta, Factor, stack

MODULE = "model.layers.0.self_attn.q_proj"


def some_delta(seed: int = 0, rank: int = 3) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    return {
        MODULE: Factor(torch.randn(rank, 24, generator=generator), torch.randn(40, rank, generator=generator)),
        "model.layers.1.mlp.up_proj": Factor(
            torch.randn(rank, 24, generator=generator), torch.randn(7, rank, generator=generator)
        ),
    }


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16, torch.float16], ids=str)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("base") / "model.safetensors"
    tensors = {
        "model.embed_tokens.weight": torch.randn(11, 24),
        f"{MODULE}.weight": torch.randn(40, 24),
        "model.layers.0.self_attn.k_proj.weight": torch.randn(5, 24),
        "model.layers.1.mlp.up_proj.weight": torch.randn(7, 24),
        "model.norm.weight": torch.randn(24),
    }
    save_file({name: tensor.to(request.param) for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    return file


def test_the_file_is_the_base_with_the_delta_added(base: Path, tmp_path: Path) -> None:
    made, delta = MergedFile(base, some_delta()), some_delta()
    (tmp_path / "out.safetensors").write_bytes(b"".join(made.read(0, made.size)))
    before, after = load_file(base), load_file(tmp_path / "out.safetensors")
    assert before.keys() == after.keys()
    for name, weight in before.items():
        module = name.removesuffix(".weight")
        if module in delta:
            wanted = (weight.float() + delta[module].product()).to(weight.dtype)
            assert torch.allclose(after[name].float(), wanted.float(), rtol=1e-2, atol=1e-5)
            assert not torch.equal(after[name], weight)
        else:
            assert torch.equal(after[name], weight)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None)
@given(data=st.data())
def test_any_part_is_that_part_of_the_whole(base: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    """B7."""
    monkeypatch.setattr(merged, "BLOCK_BYTES", 300)
    monkeypatch.setattr(merged, "PIECE_BYTES", 70)
    made = MergedFile(base, some_delta())
    whole = b"".join(made.read(0, made.size))
    assert len(whole) == made.size == base.stat().st_size
    start = data.draw(st.integers(0, made.size))
    stop = data.draw(st.integers(start, made.size))
    assert b"".join(made.read(start, stop)) == whole[start:stop]


def test_a_delta_that_the_base_cannot_take_is_refused(base: Path) -> None:
    other = {"model.layers.9.mlp.up_proj": Factor(torch.zeros(1, 24), torch.zeros(7, 1))}
    with pytest.raises(BadData, match="there is no model"):
        merged_files({"model.safetensors": base}, other)
    with pytest.raises(BadData, match="another shape"):
        MergedFile(base, {MODULE: Factor(torch.zeros(1, 24), torch.zeros(39, 1))})


def test_stacks_are_kept_until_there_is_no_room(tmp_path: Path) -> None:
    made: list[str] = []

    def deltas(name: str) -> list[Delta]:
        made.append(name)
        return [some_delta(1), some_delta(2, rank=2)]

    one_file = StackedAdapters(tmp_path / "measure", 0).file("0" * 64, lambda: deltas("size"))
    kept = StackedAdapters(tmp_path / "kept", 2 * one_file.path.stat().st_size)
    names = [str(digit) * 64 for digit in range(4)]
    for name in [*names[:2], names[0]]:
        assert kept.file(name, lambda name=name: deltas(name)).path.is_file()
    assert made == ["size", *names[:2]]
    kept.file(names[2], lambda: deltas(names[2]))
    left = {file.name[:64] for file in (tmp_path / "kept").iterdir()}
    assert left == {names[0], names[2]}  # the one that was used longest ago has gone
    again = kept.file(names[1], lambda: deltas(names[1]))
    assert again.sha256 == one_file.sha256  # the same numbers give the same bytes


def test_a_damaged_stack_is_made_again(tmp_path: Path) -> None:
    first = StackedAdapters(tmp_path, 1 << 20).file("a" * 64, lambda: [some_delta()])
    whole = first.path.read_bytes()
    first.path.write_bytes(whole[:-1] + b"?")
    second = StackedAdapters(tmp_path, 1 << 20).file("a" * 64, lambda: [some_delta()])
    assert second.path.read_bytes() == whole
    assert load_file(second.path).keys() == load_file(first.path).keys()


def test_nothing_is_left_of_a_stack_that_failed(tmp_path: Path) -> None:
    def broken() -> list[Delta]:
        raise BadData("a damaged blob")

    with pytest.raises(BadData, match="damaged"):
        StackedAdapters(tmp_path, 1).file("b" * 64, broken)
    assert list(tmp_path.iterdir()) == []


def test_the_shape_of_no_adapter_is_none() -> None:
    assert stacked_shape([]) is None
    assert stack([]) == {}
