"""How quickly adapters are trained: `sync.train.fit` against PEFT with the Trainer of transformers, on the same rows.

Both get the bundled base, the same token ids, LoRA of one form, the same optimiser, schedule, passes and precision, and
the loss on the answers only. The Trainer groups rows of like length and takes the batch size that leads to as many
steps. Its clock starts after it and its model were made, and it keeps no checkpoints and no log; ours covers all of
`fit`, with checkpoint and reports.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments, set_seed

import node
from registry.rows import read_rows
from sync.model import LoadedModel, add, load_model
from sync.score import fits
from sync.tokens import Encoded, Example, batches, encode, length_limit
from sync.train import TrainPlan, fit
from tests.benchmarks.rounds import Bound, Figure, Result, Scale, interleaved, rates, times_as_fast

NODE = Path(node.__file__).parent
BASE = NODE / "bundled" / "model"
ROWS = NODE / "demo" / "rows" / "cards.train.jsonl"
PATH = "en/finance/cards"
PLAN = TrainPlan(epochs=1, batch_tokens=2048)
ROUNDS = 5
FEW_ROWS = 100
MAX_BYTES = 64 << 20
IGNORED = -100  # the label that transformers leaves out of the loss


@dataclass(slots=True)
class Trained:
    """What a training took and came to. `loss` is nats a token of the answers afterwards, on the rows trained on."""

    seconds: float = 0.0
    steps: int = 0
    loss: float = 0.0


def ours(examples: Sequence[Example], plan: TrainPlan, work: Path) -> Trained:
    """Train as `node finetune` does."""
    loaded = load_model(BASE, [])
    started = time.perf_counter()
    result = fit(loaded, examples, [], plan, work)
    taken_s = time.perf_counter() - started
    add(loaded, result.delta)
    return Trained(taken_s, result.steps, _loss(loaded, examples, plan))


def theirs(examples: Sequence[Example], plan: TrainPlan, work: Path) -> Trained:
    """Train as the documentation of PEFT does, with everything that makes it quicker."""
    loaded = load_model(BASE, [])
    steps = len(list(batches(_encoded(loaded, examples, plan), plan.batch_tokens, rng=None)))
    set_seed(plan.seed)
    model = get_peft_model(loaded.model, _lora(plan))
    trainer = Trainer(
        model=model,
        args=_arguments(loaded, plan, math.ceil(len(examples) / steps), work),
        data_collator=DataCollatorForSeq2Seq(loaded.tokenizer, label_pad_token_id=IGNORED),
    )
    trainer.remove_callback(PrinterCallback)
    started = time.perf_counter()
    trainer.train_dataset = [_as_features(one) for one in _encoded(loaded, examples, plan)]
    trainer.train()
    model.save_pretrained(work / "adapter")
    taken_s = time.perf_counter() - started
    merged = LoadedModel(model.merge_and_unload().eval(), loaded.tokenizer, loaded.precision)
    return Trained(taken_s, trainer.state.global_step, _loss(merged, examples, plan))


def run(scale: Scale) -> Result:
    """Rows and unpadded tokens a second of both, and how many times as fast we are."""
    rows = read_rows(ROWS, MAX_BYTES)[: FEW_ROWS if scale.smallest else None]
    examples = [Example(row, PATH) for row in rows]
    loaded = load_model(BASE, [])
    tokens = sum(len(one.ids) for one in _encoded(loaded, examples, PLAN)) * PLAN.epochs
    last = {"banyan": Trained(), "peft + Trainer": Trained()}

    def timed(name: str, train: Callable[[Sequence[Example], TrainPlan, Path], Trained]) -> Callable[[], float]:
        def once() -> float:
            with tempfile.TemporaryDirectory() as work:
                last[name] = train(examples, PLAN, Path(work))
            return last[name].seconds

        return once

    for train in (ours, theirs):  # once for nothing: what is only loaded the first time is nobody's
        with tempfile.TemporaryDirectory() as work:
            train(examples[:FEW_ROWS], PLAN, Path(work))
    contenders = {name: timed(name, train) for name, train in zip(last, (ours, theirs), strict=True)}
    found = interleaved(contenders, scale.rounds or ROUNDS)
    figures: dict[str, Figure] = {}
    for name, times_s in found.items():
        figures[f"{name}, tokens"] = rates("tokens/s", tokens, times_s)
        figures[f"{name}, rows"] = rates("rows/s", len(rows) * PLAN.epochs, times_s)
    figures["ratio"] = times_as_fast(*found.values())
    setting = {
        "rows": len(rows),
        "tokens": tokens,
        "plan": asdict(PLAN),
        "precision": loaded.precision,
        "threads": torch.get_num_threads(),
        "steps": {name: trained.steps for name, trained in last.items()},
        "loss_after": {name: trained.loss for name, trained in last.items()},
    }
    return Result(setting, figures, [Bound("ratio", least=1.0)])


def _encoded(loaded: LoadedModel, examples: Sequence[Example], plan: TrainPlan) -> list[Encoded]:
    limit = length_limit(loaded, plan.max_tokens)
    return [encode(loaded, example, limit) for example in examples]


def _as_features(one: Encoded) -> dict[str, list[int]]:
    """A row as the Trainer takes it, its prompt left out of the loss."""
    labels = [IGNORED] * one.answer_at + one.ids[one.answer_at :]
    return {"input_ids": one.ids, "attention_mask": [1] * len(one.ids), "labels": labels}


def _lora(plan: TrainPlan) -> LoraConfig:
    return LoraConfig(
        r=plan.rank,
        lora_alpha=plan.alpha,
        target_modules=list(plan.targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )


def _arguments(loaded: LoadedModel, plan: TrainPlan, batch_rows: int, work: Path) -> TrainingArguments:
    on_cpu = loaded.device.type == "cpu"
    settings: dict[str, Any] = {
        "per_device_train_batch_size": batch_rows,
        "train_sampling_strategy": "group_by_length",
        "num_train_epochs": plan.epochs,
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": plan.warm_up,
        "optim": "adamw_torch",
        "adam_beta2": 0.99,
        "weight_decay": plan.weight_decay,
        "max_grad_norm": 1.0,
        "seed": plan.seed,
        "bf16": loaded.precision == "bf16",
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    return TrainingArguments(output_dir=str(work), **settings)


def _loss(loaded: LoadedModel, examples: Sequence[Example], plan: TrainPlan) -> float:
    """Nats a token of the answers, on some of the rows: both must have learned, or speed says nothing."""
    found = fits(loaded, _encoded(loaded, examples[:200], plan), lambda done: None)
    return sum(fit.nats for fit in found) / sum(fit.tokens for fit in found)
