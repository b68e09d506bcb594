"""Adapter files as bad senders make them: each is refused by the check it should fail, in words that say why."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from registry.documents import Adapter, AdapterShape, CheckResult
from registry.errors import LocalFailure
from sync.checks.files import CHECKS, check_files

State = dict[str, Tensor]
MakeAdapter = Callable[..., tuple[Path, Adapter]]
ALL = [f"files.{name}" for name in CHECKS]
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def put(key: str, value: float) -> Callable[[State], object]:
    """Write one number into a tensor."""
    return lambda state: state[key].view(-1)[-1:].fill_(value)


def rename(state: State) -> None:
    state["../../../etc/cron.d/x"] = state.pop(FIRST)


def add(state: State) -> None:
    state["base_model.model.lm_head.lora_A.weight"] = torch.ones(4, 32)


def grow(state: State) -> None:
    state[FIRST] = torch.ones(5, 32)


def swap(state: State) -> None:
    state[FIRST] = state[FIRST].T.contiguous()


def widen(state: State) -> None:
    state[FIRST] = state[FIRST].half()


def with_header(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """Rewrite the header of a file and leave its numbers."""

    def rewrite(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    return rewrite


def shift(header: dict[str, Any]) -> None:
    """Let a tensor begin where another one lies."""
    header[FIRST]["data_offsets"] = [offset - 4 for offset in header[FIRST]["data_offsets"]]


def empty(header: dict[str, Any]) -> None:
    header["x"] = {"dtype": "F32", "shape": [0, 1 << 40], "data_offsets": [0, 0]}


def twice(data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].rstrip()[:-1] + b',"__metadata__":{}}'
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def torch_saved(_: bytes) -> bytes:
    target = io.BytesIO()
    torch.save({FIRST: torch.ones(4, 32)}, target)
    return target.getvalue()


# What a sender did, the check that must see it, and words that must stand in the reason.
ATTACKS: list[tuple[str, dict[str, Any], str, str]] = [
    ("NaN", {"change": put(FIRST, float("nan"))}, "finite", FIRST),
    ("infinity", {"change": put(FIRST, float("inf"))}, "finite", "NaN or infinity"),
    ("infinity below", {"change": put(FIRST, float("-inf")), "dtype": "BF16"}, "finite", "NaN or infinity"),
    ("NaN in half floats", {"change": put(FIRST, float("nan")), "dtype": "F16"}, "finite", "NaN or infinity"),
    ("a name that climbs", {"change": rename}, "header", "no name for a tensor"),
    ("a tensor more", {"change": add}, "names", "such as 'base_model.model.lm_head.lora_A.weight'"),
    ("a tensor less", {"change": lambda state: state.pop(FIRST)}, "names", "1 tensors are missing"),
    ("another rank in one tensor", {"change": grow}, "shapes", "has the shape [5, 32], it must be [4, 32]"),
    ("a factor turned over", {"change": swap}, "shapes", "has the shape [32, 4]"),
    ("another dtype in one tensor", {"change": widen}, "dtype", "holds F16, the adapter is declared as F32"),
    ("a module that the base lacks", {"targets": ("q_proj",)}, "targets", "'c_attn' is not a module"),
    ("an overlap", {"rewrite": with_header(shift)}, "header", "overlaps"),
    ("an empty tensor of any size", {"rewrite": with_header(empty)}, "header", "is empty"),
    ("a key twice", {"rewrite": twice}, "header", "twice"),
    ("trailing bytes", {"rewrite": lambda data: data + b"#!/bin/sh\n"}, "header", "10 bytes follow"),
    ("cut off", {"rewrite": lambda data: data[:-1]}, "header", "cut off"),
    ("a huge header declared", {"rewrite": lambda data: struct.pack("<Q", 1 << 40) + data[8:]}, "header", "at most"),
    ("a pickle in disguise", {"rewrite": torch_saved}, "header", "a zip archive"),
    ("an empty file", {"rewrite": lambda data: b""}, "header", "too few"),
]


def assert_refused(results: list[CheckResult], check: str, words: str) -> None:
    """Exactly the named check failed, after all the ones before it passed, and nothing ran after it."""
    assert [result.name for result in results] == ALL[: ALL.index(f"files.{check}") + 1]
    assert [result.passed for result in results] == [True] * (len(results) - 1) + [False]
    assert words in results[-1].reason


@pytest.mark.parametrize(("options", "check", "words"), [a[1:] for a in ATTACKS], ids=[a[0] for a in ATTACKS])
def test_bad_file_is_refused(
    make_adapter: MakeAdapter, base_config: dict[str, Any], options: dict[str, Any], check: str, words: str
) -> None:
    """C17."""
    file, declared = make_adapter(**options)
    if check == "targets":
        declared = declared.model_copy(update={"shape": declared.shape.model_copy(update={"targets": ("c_attn",)})})
    assert_refused(check_files(file, declared, base_config), check, words)


def declared_as(adapter: Adapter, **shape: Any) -> Adapter:
    return Adapter(file=adapter.file, shape=AdapterShape.model_validate(adapter.shape.model_dump() | shape))


def test_other_rank_than_the_file_has_is_refused(make_adapter: MakeAdapter, base_config: dict[str, Any]) -> None:
    file, honest = make_adapter(rank=4)
    assert_refused(check_files(file, declared_as(honest, rank=8), base_config), "shapes", "it must be [8, 48]")


def test_other_targets_than_the_file_has_are_refused(make_adapter: MakeAdapter, base_config: dict[str, Any]) -> None:
    file, honest = make_adapter()
    results = check_files(file, declared_as(honest, targets=("q_proj",)), base_config)
    assert_refused(results, "names", "24 tensors do not belong")


def test_adapter_for_another_base_is_refused(make_adapter: MakeAdapter, base_config: dict[str, Any]) -> None:
    """C16."""
    file, honest = make_adapter()
    assert_refused(check_files(file, honest, base_config | {"num_hidden_layers": 3}), "names", "14 tensors are missing")
    assert_refused(check_files(file, honest, base_config | {"intermediate_size": 64}), "shapes", "it must be")


def test_rank_and_alpha_beyond_the_limits_are_refused(make_adapter: MakeAdapter, base_config: dict[str, Any]) -> None:
    """C12."""
    file, honest = make_adapter(rank=8, alpha=32.0)
    assert_refused(check_files(file, honest, base_config, rank_limit=4), "rank", "rank 8; at most 4")
    assert_refused(check_files(file, honest, base_config, alpha_limit=2.0), "alpha", "alpha / rank is 4; at most 2")
    inflated = honest.model_copy(update={"shape": honest.shape.model_copy(update={"alpha": 1e6})})
    assert_refused(check_files(file, inflated, base_config), "alpha", "alpha / rank is 125000; at most 4")


def test_other_file_than_was_signed_is_refused(make_adapter: MakeAdapter, base_config: dict[str, Any]) -> None:
    """C14."""
    file, honest = make_adapter(seed=1)
    other, _ = make_adapter(seed=2)
    assert_refused(check_files(other, honest, base_config), "digest", honest.file.sha256)
    file.write_bytes(file.read_bytes() + b"\x00")
    assert_refused(check_files(file, honest, base_config), "size", f"{honest.file.size} were declared")


def test_file_that_is_gone_is_our_own_failure(make_adapter: MakeAdapter, base_config: dict[str, Any]) -> None:
    file, honest = make_adapter()
    file.unlink()
    with pytest.raises(LocalFailure, match="cannot be read"):
        check_files(file, honest, base_config)


def test_base_without_sizes_is_a_finding(make_adapter: MakeAdapter, base_config: dict[str, Any]) -> None:
    file, honest = make_adapter()
    del base_config["hidden_size"]
    assert_refused(check_files(file, honest, base_config), "targets", "config.json has no usable hidden_size")


TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "rank": st.integers(1, 16),
            "alpha": st.sampled_from([0.5, 1.0, 4.0]),
            "targets": st.lists(st.sampled_from(TARGETS), min_size=1, unique=True).map(tuple),
            "dtype": st.sampled_from(["F32", "F16", "BF16"]),
            "seed": st.integers(0, 1000),
        }
    )
)
def test_no_honest_adapter_is_refused(
    make_adapter: MakeAdapter, base_config: dict[str, Any], options: dict[str, Any]
) -> None:
    file, declared = make_adapter(**options)
    results = check_files(file, declared, base_config)
    assert [result.name for result in results] == ALL
    assert all(result.passed for result in results), results


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 1 << 16), value=st.integers(1, 255))
def test_no_changed_byte_goes_unseen(
    make_adapter: MakeAdapter, base_config: dict[str, Any], at: int, value: int
) -> None:
    """Against the signed digest; the attack tests above sign what they send."""
    file, honest = make_adapter(targets=("q_proj",), rank=2)
    data = bytearray(file.read_bytes())
    data[at % len(data)] ^= value
    file.write_bytes(data)
    assert_refused(check_files(file, honest, base_config), "digest", "was signed")


def test_time_of_every_check_is_told(make_adapter: MakeAdapter, base_config: dict[str, Any]) -> None:
    ticks = iter(range(100))
    file, honest = make_adapter()
    results = check_files(file, honest, base_config, clock=lambda: float(next(ticks)))
    assert [result.cost_ms for result in results] == [1000.0] * len(ALL)
