"""Contenders of transformers and PEFT in this process: `generate`, mixed batches of adapters."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.benchmarks.serving.arms import Answered, read
from tests.benchmarks.serving.jobs import Job
from tests.benchmarks.serving.models import Model

NUMBERS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(model: Model, number: str) -> Any:
    """The model in its quickest attention that runs everywhere."""
    found = AutoModelForCausalLM.from_pretrained(model.folder, dtype=NUMBERS[number], attn_implementation="sdpa")
    return found.eval()


class Generate:
    """`generate`: a batch runs until its longest answer is done, and what the shorter ones made after theirs is lost.

    `at_a_time` bounds the batch; without it all jobs are one batch. Prompts are equally long.
    """

    def __init__(self, model: Model, number: str, at_a_time: int = 0) -> None:
        self._tokenizer = model.tokenizer
        self._model = load(model, number)
        self._at_a_time = at_a_time

    def answer(self, jobs: Sequence[Job]) -> Answered:
        """One batch after the other."""
        started = time.perf_counter()
        size = self._at_a_time or len(jobs)
        tokens = [made for at in range(0, len(jobs), size) for made in self._batch(jobs[at : at + size])]
        seconds = time.perf_counter() - started
        return Answered(seconds, read(self._tokenizer, tokens, jobs), tokens)

    @torch.inference_mode()
    def _batch(self, jobs: Sequence[Job]) -> list[list[int]]:
        ids = torch.tensor([job.prompt for job in jobs])
        made = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max(job.new for job in jobs),
            do_sample=False,
            **self._more(jobs),
        )
        return [row[: job.new] for row, job in zip(made[:, ids.shape[1] :].tolist(), jobs, strict=True)]

    def _more(self, jobs: Sequence[Job]) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        """Let go of the model."""
        self._model = None


class PeftMixed(Generate):
    """PEFT's batch of mixed adapters: `generate(adapter_names=...)` on static batches."""

    def __init__(self, model: Model, number: str, adapters: Sequence[Path], at_a_time: int) -> None:
        super().__init__(model, number, at_a_time)
        with warnings.catch_warnings():  # it reads what transformers will rename
            warnings.simplefilter("ignore", FutureWarning)
            mixed = PeftModel.from_pretrained(self._model, adapters[0], adapter_name="0")
            for place, adapter in enumerate(adapters[1:], 1):
                mixed.load_adapter(adapter, adapter_name=str(place))
        self._model = mixed.eval()

    def _more(self, jobs: Sequence[Job]) -> dict[str, Any]:
        return {"adapter_names": ["__base__" if job.adapter is None else str(job.adapter) for job in jobs]}
