from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.generation import FAMILIES, GenerationSettings, model_says, said_by
from node.serving.requests import Sampling
from registry.errors import BadData


def written(folder: Path, text: str) -> Path:
    file = folder / "generation.toml"
    file.write_text(text)
    return file


def test_the_stronger_place_wins(tmp_path: Path) -> None:
    file = written(tmp_path, 'temperature = 0.1\ntop_k = 3\ntop_p = 0.5\nstop = ["a", "b"]\n')
    environment = {"BANYAN_START_TOP_K": "7", "BANYAN_START_TOP_P": "0.6", "BANYAN_PORT": "1", "OTHER": "x"}
    said = said_by({"top_p": "0.7", "seed": None, "stop": ()}, environment, file)
    found = said.settings("qwen3", {"temperature": 0.9, "min_p": 0.2})
    assert (found.temperature, found.top_k, found.top_p, found.min_p) == (0.1, 7, 0.7, 0.2)
    assert found.stop == ("a", "b")
    assert said.settings("qwen2", {}).repetition_penalty == 1.05  # the family's own
    assert said.settings("no such family", {}).repetition_penalty == 1.0


def test_values_from_text() -> None:
    environment = {"BANYAN_START_STOP": "END, or not", "BANYAN_START_LOGIT_BIAS": '{"17": -5}'}
    flags = {"ignore_eos": "true", "stop_token_ids": ("3", "4"), "seed": "-1"}
    found = said_by(flags, environment).settings("", {})
    assert found.stop == ("END, or not",)
    assert found.logit_bias == {17: -5.0}
    assert (found.ignore_eos, found.stop_token_ids, found.seed) == (True, (3, 4), -1)
    assert said_by({}, {"BANYAN_START_STOP": '["x", "y"]'}).settings("", {}).stop == ("x", "y")


@pytest.mark.parametrize(
    ("flags", "environment", "text", "message", "hint"),
    [
        ({"temprature": "1"}, {}, "", "--temprature", "temperature"),
        ({}, {"BANYAN_START_TOPK": "1"}, "", "BANYAN_START_TOPK", "top_k"),
        ({}, {}, "max_token = 3", "max_token in", "max_tokens"),
        ({"top_p": "1.5"}, {}, "", "top_p = 1.5 (--top-p)", ""),
        ({}, {"BANYAN_START_TEMPERATURE": "warm"}, "", "BANYAN_START_TEMPERATURE", ""),
        ({}, {}, "seed = 1.5", "seed in", ""),
        ({"logit_bias": "17:-5"}, {}, "", "is not JSON", ""),
        ({}, {}, "temperature = ", "is not TOML", ""),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(
    flags: dict[str, str], environment: dict[str, str], text: str, message: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(BadData) as refused:
        said_by(flags, environment, written(tmp_path, text))
    assert message in refused.value.message
    assert hint in refused.value.hint


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="there is no file"):
        said_by({}, {}, tmp_path / "none.toml")


def test_what_a_model_says_of_itself(tmp_path: Path) -> None:
    file = tmp_path / "generation_config.json"
    assert model_says(tmp_path) == {}
    file.write_text(json.dumps({"temperature": 0.3, "top_k": 5, "max_new_tokens": 9, "eos_token_id": 1}))
    assert model_says(tmp_path) == {"temperature": 0.3, "top_k": 5, "max_tokens": 9}
    file.write_text(json.dumps({"temperature": 0.3, "do_sample": False}))
    assert model_says(tmp_path) == {"temperature": 0.0}
    file.write_text("[1]")
    assert model_says(tmp_path) == {}
    assert said_by({}, {}).settings("gemma", {"top_p": 0.0, "top_k": 5}).model_dump(include={"top_p", "top_k"}) == {
        "top_p": 0.95,  # what the model says fits no setting
        "top_k": 5,
    }


def test_every_setting_is_one_of_a_request_and_has_a_text() -> None:
    for name, field in GenerationSettings.model_fields.items():
        assert name in Sampling.__dataclass_fields__
        assert field.description
    for family in FAMILIES.values():
        assert family.model_fields.keys() == GenerationSettings.model_fields.keys()
        family()
