"""Which tensors an adapter must have: those that PEFT writes for its base, and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from registry.documents import AdapterShape
from registry.errors import BadData
from sync.checks.expected import check_dtype, check_names, check_shapes, expected_adapter_tensors
from sync.checks.tensors import Header, TensorEntry

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def shape_of(rank: int, targets: tuple[str, ...]) -> AdapterShape:
    return AdapterShape(rank=rank, alpha=float(rank), targets=targets, dtype="F32")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft, of transformers
@pytest.mark.parametrize("head_dim", [None, 24])
def test_expected_tensors_are_those_that_peft_saves(head_dim: int | None) -> None:
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
    )
    for targets in (TARGETS, ("q_proj", "down_proj")):
        model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=3, target_modules=list(targets)))
        saved = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}
        assert expected_adapter_tensors(config.to_dict(), shape_of(3, targets)) == saved


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": None},
        {"num_hidden_layers": 1 << 40},
        {"num_hidden_layers": 0},
        {"intermediate_size": -1},
        {"num_attention_heads": 64},
        {"head_dim": "8"},
        {"num_key_value_heads": True},
    ],
    ids=str,
)
def test_base_without_usable_sizes_is_refused(base_config: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(BadData, match=r"config\.json"):
        expected_adapter_tensors(base_config | change, shape_of(4, TARGETS))


def test_target_that_the_base_lacks_is_refused(base_config: dict[str, Any]) -> None:
    """C13."""
    with pytest.raises(BadData, match="'lm_head' is not a module"):
        expected_adapter_tensors(base_config, shape_of(4, ("q_proj", "lm_head")))


EXPECTED = {"a": (2, 3), "b": (3, 2)}
A, B = TensorEntry("F32", (2, 3), 0, 24), TensorEntry("F32", (3, 2), 24, 48)


@pytest.mark.parametrize(
    ("found", "check", "words"),
    [
        ({"a": A}, check_names, "1 tensors are missing, such as 'b'"),
        ({"a": A, "b": B, "c": B}, check_names, "1 tensors do not belong to this adapter, such as 'c'"),
        ({"a": A, "c": B}, check_names, "do not belong"),
        ({"a": A, "b": A}, check_shapes, "'b' has the shape [2, 3], it must be [3, 2]"),
    ],
)
def test_other_tensors_than_expected_are_refused(
    found: dict[str, TensorEntry], check: Callable[[Header, dict[str, tuple[int, int]]], None], words: str
) -> None:
    """R14, C16."""
    with pytest.raises(BadData) as refusal:
        check(Header(found, 8), EXPECTED)
    assert words in refusal.value.message


def test_other_dtype_than_declared_is_refused() -> None:
    header = Header({"a": A, "b": B}, 8)
    check_names(header, EXPECTED)
    check_shapes(header, EXPECTED)
    check_dtype(header, "F32")
    with pytest.raises(BadData, match="'a' holds F32, the adapter is declared as BF16"):
        check_dtype(header, "BF16")
