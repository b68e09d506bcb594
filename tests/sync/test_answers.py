from __future__ import annotations

from pathlib import Path

import pytest
import torch

from registry.errors import BadData
from sync import answers
from sync.answers import answer, end_tokens, has_room
from sync.model import LoadedModel, load_model
from tests.node.tiny_models import CONFIGS, save_tiny

PROMPTS = ["open an account", "x", "what is my balance? " * 3, "hello", "a b c d e f g h i j k l m n o p", "x"]


def load_tiny(folder: Path, family: str = "llama", **changes: object) -> LoadedModel:
    return load_model(save_tiny(folder, family, **changes), [], "fp32")


def alone(loaded: LoadedModel, prompt: str, most: int) -> str:
    """What transformers itself makes of one prompt."""
    ids = torch.tensor([loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]])
    written = loaded.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=most, pad_token_id=0
    )
    said = written[0, ids.shape[1] :].tolist()
    declared = loaded.model.generation_config.eos_token_id
    if said[-1] in (declared if isinstance(declared, list) else [declared]):
        said.pop()
    return str(loaded.tokenizer.decode(said, skip_special_tokens=True))


def end_sometimes(loaded: LoadedModel) -> None:
    """Let two tokens that the model likes end an answer, so that rows leave the batch at different times."""
    ids = [torch.tensor([loaded.tokenizer(prompt)["input_ids"]]) for prompt in PROMPTS]
    said = [loaded.model.generate(one, do_sample=False, max_new_tokens=12, pad_token_id=0)[0] for one in ids]
    loaded.model.generation_config.eos_token_id = [1, int(said[0][-9]), int(said[2][-7])]


@pytest.mark.parametrize("family", CONFIGS)
def test_answers_in_a_batch_are_those_of_each_prompt_alone(family: str, tmp_path: Path) -> None:
    loaded = load_tiny(tmp_path, family)
    end_sometimes(loaded)
    expected = [alone(loaded, prompt, 12) for prompt in PROMPTS]
    assert answer(loaded, PROMPTS, 12) == expected
    assert len({len(text) for text in expected}) > 1
    assert len(set(expected)) > 3


@pytest.mark.parametrize("family", ["mistral", "gemma2", "qwen2"])
def test_a_sliding_window_makes_no_difference(family: str, tmp_path: Path) -> None:
    loaded = load_tiny(tmp_path, family, sliding_window=8, use_sliding_window=True, max_window_layers=0)
    end_sometimes(loaded)
    assert answer(loaded, PROMPTS, 20) == [alone(loaded, prompt, 20) for prompt in PROMPTS]


def test_every_prompt_may_have_a_limit_of_its_own(tmp_path: Path) -> None:
    loaded = load_tiny(tmp_path)
    limits = [3, 0, 7, 1, 5, 7]
    expected = [alone(loaded, prompt, most) if most else "" for prompt, most in zip(PROMPTS, limits, strict=True)]
    assert answer(loaded, PROMPTS, limits) == expected


def test_many_prompts_go_in_several_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_tiny(tmp_path)
    at_once, seen = answer(loaded, PROMPTS, 6), []
    monkeypatch.setattr(answers, "BATCH_ROWS", 4)
    assert answer(loaded, PROMPTS, 6, lambda done, total: seen.append((done, total))) == at_once
    assert seen == [(4, 6), (6, 6)]
    assert answer(loaded, [], 6, lambda done, total: seen.append((done, total))) == []
    assert len(seen) == 2


def test_an_answer_ends_where_the_context_does(tmp_path: Path) -> None:
    loaded = load_tiny(tmp_path)
    prompt = "q" * 125
    assert answer(loaded, [prompt], 50) == [alone(loaded, prompt, 3)]


@pytest.mark.parametrize(("size", "fits"), [(127, True), (128, False), (129, False)])
def test_a_prompt_that_leaves_no_room_is_refused(size: int, fits: bool, tmp_path: Path) -> None:
    loaded = load_tiny(tmp_path)
    prompt = "q" * size
    assert has_room(loaded, prompt) is fits
    if fits:
        assert answer(loaded, ["x", prompt], 2) == [alone(loaded, "x", 2), alone(loaded, prompt, 1)]
    else:
        with pytest.raises(BadData, match=f"a prompt of {size} tokens does not fit the model's context of 128"):
            answer(loaded, ["x", prompt], 2)


def test_the_tokenizer_s_end_token_counts_besides_the_model_s(tmp_path: Path) -> None:
    loaded = load_tiny(tmp_path)
    loaded.model.generation_config.eos_token_id = 7
    assert end_tokens(loaded) == {7, 1}
    loaded.model.generation_config.eos_token_id = None
    assert end_tokens(loaded) == {1}
