"""LoRA training of a loaded model on examples, and nothing else: no data formats, no releases, no decisions.

The loss stands on the answers, and where a plan says so on the prompts of some examples. The work folder holds a
checkpoint from which an interrupted run goes on to the same result, and the best adapter so far; the model's own
dropout stays off, so that no random state is needed for it. Layers, initialisation and file format are PEFT's
(arXiv 2106.09685).
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from registry.errors import BadData, LocalFailure
from registry.loading import LOADING
from registry.rounds import Half
from sync.continual import Protected
from sync.delta import Delta, Factor, write_tensors
from sync.distil import soft_loss
from sync.model import LoadedModel
from sync.score import fits
from sync.tokens import Encoded, Example, batches, collate, encode, length_limit, prompt_places, targets

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTER = "default"
LONG_ROWS = 256


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """Everything that decides the result besides the data and the model."""

    rank: int = 16
    alpha: float = 16.0
    targets: tuple[str, ...] = ALL_LINEAR
    epochs: int = 5
    batch_tokens: int = 4096
    max_tokens: int = 512
    learning_rate: float = 3e-3
    warm_up: float = 0.05  # part of all steps
    weight_decay: float = 0.0
    prompt_loss: float = 0.0  # weight of the own rows' prompts, so that such prompts can be sampled from the model
    patience: int = 2  # epochs without a better validation before the run stops
    seed: int = 1
    checkpoint_every_s: float = 60.0


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimiser step as a person wants to see it; `validation` is set on the last step of an epoch."""

    step: int
    total_steps: int
    epoch: int
    loss: float
    tokens: int
    tokens_per_s: float
    seconds_left: float
    validation: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class FitResult:
    """The adapter of the best epoch and how the run went; `history` is one validation record per epoch."""

    delta: Delta
    steps: int
    best_epoch: int
    history: list[dict[str, float]]


@dataclass(slots=True)
class Progress:
    """Counters that a checkpoint keeps."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    tokens: int = 0
    best_epoch: int = -1
    best: float = -math.inf
    history: list[dict[str, float]] = field(default_factory=list)


def fit(
    loaded: LoadedModel,
    train: Sequence[Example],
    validation: Sequence[Example],
    plan: TrainPlan,
    work: Path,
    on_step: Callable[[StepReport], None] = lambda report: None,
    start: Delta | None = None,
    protected: Protected | None = None,
    frozen: Half = "",
) -> FitResult:
    """Train an adapter over `loaded` (whose weights stay as they are), from `start` or from nothing.

    `protected` are directions that its factors leave alone, `frozen` the half of them that stays as it is. A second
    call with the same arguments and work folder goes on where a killed one was. Raises BadData when there is nothing to
    train on, the base has none of the target modules or the plan has no room for `start`, LocalFailure when the loss is
    no longer a number.
    """
    if not train:
        raise BadData("there are no training rows", "add rows, or lower the shares of validation and test")
    work.mkdir(parents=True, exist_ok=True)
    limit = length_limit(loaded, plan.max_tokens)
    asks = plan.prompt_loss > 0
    train_tokens = [encode(loaded, replace(example, asks=asks and example.asks), limit) for example in train]
    validation_tokens = [encode(loaded, example, limit) for example in validation]
    with lora(loaded, plan, start) as parameters:
        for name, parameter in parameters.items():
            parameter.requires_grad_(not frozen or not name.endswith(f".{frozen}"))
        run = Run(loaded, plan, work, parameters, train_tokens, validation_tokens, on_step, protected or Protected())
        return run.to_the_end()


class lora:  # noqa: N801  a context manager, used like a function
    """Puts LoRA layers into the model for the time of a `with` block; the base weights stay untouched."""

    def __init__(self, loaded: LoadedModel, plan: TrainPlan, start: Delta | None) -> None:
        self.loaded, self.plan, self.start = loaded, plan, start

    def __enter__(self) -> dict[str, Tensor]:
        """Insert the layers; gives the trainable tensors by name ("<module>.a", "<module>.b")."""
        names = [name for name, _ in self.loaded.linear_modules() if name.rsplit(".", 1)[-1] in self.plan.targets]
        if not names:
            raise BadData(
                f"this base has no module named {', '.join(self.plan.targets)}", "name other modules with --targets"
            )
        self.refuse_loss(names)
        self.frozen = [p for p in self.loaded.model.parameters() if p.requires_grad]
        for parameter in self.frozen:
            parameter.requires_grad_(False)
        config = LoraConfig(
            r=self.plan.rank, lora_alpha=self.plan.alpha, target_modules=names, lora_dropout=0.0, bias="none"
        )
        with LOADING:  # torch's own generator and default dtype decide what they start as
            torch.manual_seed(self.plan.seed)
            inject_adapter_in_model(config, self.loaded.model, ADAPTER)
        parameters: dict[str, Tensor] = {}
        scale = self.plan.alpha / self.plan.rank
        for name, layer in self.layers():
            a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            parameters[f"{name}.a"], parameters[f"{name}.b"] = a, b
            factor = self.start.get(name) if self.start else None
            if factor is not None:
                with torch.no_grad():
                    a[: factor.rank] = factor.a
                    b.zero_()
                    b[:, : factor.rank] = factor.b / scale
        return parameters

    def refuse_loss(self, names: Sequence[str]) -> None:
        """Raise BadData where a part of the adapter to start from would be lost."""
        for name, factor in (self.start or {}).items():
            if name not in names or factor.rank > self.plan.rank:
                raise BadData(
                    f"the adapter to start from changes {name} with rank {factor.rank}, which the plan has no room for",
                    "give the plan its rank and its targets",
                )

    def layers(self) -> Iterator[tuple[str, LoraLayer]]:
        """The inserted layers by the name of the module that they stand in for."""
        for name, module in list(self.loaded.model.named_modules()):
            if isinstance(module, LoraLayer):
                yield name, module

    def __exit__(self, *_: object) -> None:
        """Put the plain modules back."""
        for name, layer in self.layers():
            self.loaded.model.set_submodule(name, layer.get_base_layer())
        del self.loaded.model.peft_config
        for parameter in self.frozen:
            parameter.requires_grad_(True)


def attention_for(width: int) -> AbstractContextManager[None]:
    """The attention kernel for rows of `width` tokens.

    On a CPU the backward pass of the fused kernel costs more than the plain one until rows are long: with it, a step
    of 2,048 tokens in rows of 40 takes a third longer.
    """
    if width > LONG_ROWS or torch.cuda.is_available():
        return nullcontext()
    kernel: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return kernel


def cost_of_answers(logits: Tensor, expected: Tensor, batch: Sequence[Encoded]) -> Tensor:
    """Mean cross-entropy of the answers' tokens; against what their teachers might have said where that was told."""
    is_soft = any(one.top for one in batch)
    return soft_loss(logits, expected, batch) if is_soft else functional.cross_entropy(logits, expected)


class Run:
    """One training run: the loop, its checkpoints, its early stop."""

    def __init__(
        self,
        loaded: LoadedModel,
        plan: TrainPlan,
        work: Path,
        parameters: dict[str, Tensor],
        train: list[Encoded],
        validation: list[Encoded],
        on_step: Callable[[StepReport], None],
        protected: Protected,
    ) -> None:
        self.loaded, self.plan, self.work, self.protected = loaded, plan, work, protected
        self.parameters, self.train, self.validation, self.on_step = parameters, train, validation, on_step
        self.optimiser = torch.optim.AdamW(
            parameters.values(), lr=plan.learning_rate, weight_decay=plan.weight_decay, betas=(0.9, 0.99)
        )
        protected.confine(parameters)
        self.progress = Progress()
        self.total_steps = plan.epochs * len(self.epoch_batches(0))
        self.started = self.saved = time.monotonic()
        self.resumed_tokens = 0

    def epoch_batches(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch: the same whenever they are asked for."""
        rng = random.Random(self.plan.seed * 1_000_003 + epoch)  # noqa: S311  shuffling, not secrets
        return list(batches(self.train, self.plan.batch_tokens, rng))

    def to_the_end(self) -> FitResult:
        """Train until the epochs are done or the validation has stopped to improve."""
        self.resume()
        progress = self.progress
        while progress.epoch < self.plan.epochs and not self.tired():
            groups = self.epoch_batches(progress.epoch)
            while progress.batch < len(groups):
                self.step(groups[progress.batch], last=progress.batch + 1 == len(groups))
            progress.epoch, progress.batch = progress.epoch + 1, 0
            self.save()
        best = load_file(self.work / "best.safetensors")
        return FitResult(self.delta(best), progress.step, progress.best_epoch, progress.history)

    def tired(self) -> bool:
        """Whether the validation has been without a new best for longer than the patience."""
        return bool(self.validation) and self.progress.epoch - 1 - self.progress.best_epoch >= self.plan.patience

    def step(self, group: list[int], *, last: bool) -> None:
        """One optimiser step; after the last of an epoch the adapter is validated."""
        progress, plan = self.progress, self.plan
        for group_parameters in self.optimiser.param_groups:
            group_parameters["lr"] = plan.learning_rate * self.schedule(progress.step)
        batch = [self.train[i] for i in group]
        ids, chosen = collate(batch, int(self.loaded.tokenizer.pad_token_id), self.loaded.device)
        loss = self.loss(batch, ids, chosen)
        value = loss.item()
        if not math.isfinite(value):
            raise LocalFailure(
                f"the loss is {value} at step {progress.step}",
                f"lower the learning rate (now {plan.learning_rate:g}) or look for broken rows in the data",
            )
        cost = self.protected.cost(self.parameters)
        torch.autograd.backward(loss if cost is None else loss + cost)
        self.protected.confine({name: p.grad for name, p in self.parameters.items()})
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimiser.step()
        self.protected.confine(self.parameters)
        self.optimiser.zero_grad(set_to_none=True)
        progress.step += 1
        progress.batch += 1
        progress.tokens += ids.numel()
        self.report(value, self.validate() if last else None)
        if time.monotonic() - self.saved > plan.checkpoint_every_s:
            self.save()

    def loss(self, batch: Sequence[Encoded], ids: Tensor, answers: Tensor) -> Tensor:
        """Mean cost of the answers' tokens and, with the plan's weight, of the prompts' tokens."""
        prompts = prompt_places(batch, answers)
        with_prompts = bool(prompts.any())
        chosen = answers | prompts if with_prompts else answers
        with self.loaded.arithmetic(), attention_for(ids.shape[1]):
            logits = self.loaded.next_token_logits(ids, chosen)
        expected = targets(ids, chosen)
        if not with_prompts:
            return cost_of_answers(logits, expected, batch)
        of_answers = answers[chosen]
        asking = functional.cross_entropy(logits[~of_answers], expected[~of_answers])
        return cost_of_answers(logits[of_answers], expected[of_answers], batch) + self.plan.prompt_loss * asking

    def schedule(self, step: int) -> float:
        """Linear warm-up, then linear decay to zero."""
        warm = max(1, round(self.plan.warm_up * self.total_steps))
        if step < warm:
            return (step + 1) / warm
        return max(0.0, (self.total_steps - step) / max(1, self.total_steps - warm))

    def validate(self) -> dict[str, float]:
        """Mean cost of the validation answers and the share that greedy decoding writes; keeps the best adapter."""
        progress = self.progress
        record = {"epoch": float(progress.epoch)}
        score = float(progress.epoch)  # without validation rows the last epoch is the best
        if self.validation:
            found = fits(self.loaded, self.validation, lambda done: None)
            record["loss"] = sum(f.nats for f in found) / sum(f.tokens for f in found)
            record["exact_match"] = sum(f.greedy for f in found) / len(found)
            score = record["exact_match"] - 1e-3 * record["loss"]
        progress.history.append(record)
        if score > progress.best:
            progress.best, progress.best_epoch = score, progress.epoch
            write_tensors({name: p.detach() for name, p in self.parameters.items()}, self.work / "best.safetensors")
        return record

    def report(self, loss: float, validation: dict[str, float] | None) -> None:
        """Tell the caller how the run goes."""
        progress = self.progress
        elapsed = max(1e-9, time.monotonic() - self.started)
        rate = (progress.tokens - self.resumed_tokens) / elapsed
        left = (self.total_steps - progress.step) * progress.tokens / progress.step / max(rate, 1e-9)
        self.on_step(
            StepReport(progress.step, self.total_steps, progress.epoch, loss, progress.tokens, rate, left, validation)
        )

    def delta(self, tensors: dict[str, Tensor]) -> Delta:
        """The adapter with its scale folded into B."""
        scale = self.plan.alpha / self.plan.rank
        names = sorted(name.removesuffix(".a") for name in tensors if name.endswith(".a"))
        return {n: Factor(tensors[f"{n}.a"].detach().cpu(), tensors[f"{n}.b"].detach().cpu() * scale) for n in names}

    def save(self) -> None:
        """Write a checkpoint: adapter, moments of the optimiser and counters in one file: they belong together."""
        tensors = {f"p.{name}": p.detach() for name, p in self.parameters.items()}
        for name, p in self.parameters.items():
            for key, value in self.optimiser.state.get(p, {}).items():
                tensors[f"{key}.{name}"] = value.detach()
        progress = self.progress
        note = {key: json.dumps(getattr(progress, key)) for key in Progress.__dataclass_fields__}
        write_tensors(tensors, self.work / "checkpoint.safetensors", note)
        self.saved = time.monotonic()

    def resume(self) -> None:
        """Go on from the checkpoint of the work folder, if there is one."""
        file = self.work / "checkpoint.safetensors"
        if not file.exists():
            return
        with safe_open(file, framework="pt") as opened:
            note = opened.metadata()
        tensors = load_file(file)
        for key, text in note.items():
            setattr(self.progress, key, json.loads(text))
        self.resumed_tokens = self.progress.tokens
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(tensors[f"p.{name}"])
                if self.progress.step and p.requires_grad:
                    moments = {k: tensors[f"{k}.{name}"].to(p.device) for k in ("exp_avg", "exp_avg_sq")}
                    self.optimiser.state[p] = {"step": tensors[f"step.{name}"], **moments}
