"""Train the bundled base from nothing: tokenizer, Llama-architecture model, figures on rows that it never saw.

    python -m node.bundled.build --data DATA/tree --out DIR [--tokens 24e6] [--size sprout]

The mixture, the sizes and the schedule stand here as constants: this file is the recipe. The run resumes from its
last checkpoint. Packaging the result (bf16 weights, card, anchors, starter tree) is left to `node.bundled.package`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from registry.rows import Row, of_split, read_tree_rows
from sync.prompt import system_turn

# Data set -> how often one of its rows is drawn, in passes over the set relative to the others. Not drawn at all:
# banking77, law, medquad (kept out so that the tree's children have something to bring), the share-alike sets,
# and truthfulqa (evaluation only).
MIXTURE: dict[str, float] = {
    "clinc150": 1.0,
    "hwu64": 1.0,
    "snips": 0.8,
    "nlupp": 1.0,
    "home_assistant": 1.0,
    "seal_tools": 0.5,
    "tldr": 0.35,
    "nl2bash": 0.35,
    "common_voice_text": 0.15,
    "tico19": 0.15,
    "storybooks": 0.3,
}
VOCABULARY = 8192
MAX_TOKENS = 256  # longer rows are cut
BATCH_TOKENS = 8192
WARM_UP = 0.02  # parts of the run
DECAY = 0.35
PEAK_LR = 2e-3
WEIGHT_DECAY = 0.1
EMBEDDING_DROPOUT = 0.1
BPE_DROPOUT = 0.1
TASK_DROPOUT = 0.25  # so that an asker who names no task is understood too
PROMPT_WEIGHT = 0.2  # loss on the request, so that requests can be sampled from the model
CHECKPOINT_S = 300.0

SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
PAD, END, SYSTEM, USER, ASSISTANT, TOOL = range(len(SPECIAL_TOKENS))
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] -%}"
    "{{ raise_exception('role must be system, user, assistant or tool') }}"
    "{%- endif -%}"
    "<|{{ message['role'] }}|>"
    "{%- if message['role'] == 'assistant' -%}"
    "{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{%- else -%}{{ message['content'] }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)


def load_rows(data: Path) -> dict[str, list[Row]]:
    """The training and held-out rows of every set of the mixture."""
    return {name: list(read_tree_rows(data / name / f"{name}.train.jsonl")) for name in MIXTURE}


def train_tokenizer(rows: dict[str, list[Row]], seed: int) -> Tokenizer:
    """A byte-level BPE over the training rows; prose is sampled so that it does not crowd out requests."""
    rng = random.Random(seed)  # noqa: S311  sampling, not secrets
    texts: list[str] = []
    for name, members in rows.items():
        for row in of_split(members, "train"):
            if row.input or rng.random() < 0.5 or name == "tico19":
                texts += [row.input, row.output[:600]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


@dataclass(frozen=True, slots=True)
class Size:
    """The widths and depth of a base; embeddings are tied."""

    hidden: int
    inner: int
    layers: int


# The bundled base of 6.1 M parameters, and one of 1.9 M for weaker machines: a graft's.
SIZES = {"seedling": Size(hidden=256, inner=704, layers=5), "sprout": Size(hidden=128, inner=352, layers=4)}


def new_model(size: Size) -> LlamaForCausalLM:
    """A Llama of a size, randomly initialised."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=size.hidden,
            intermediate_size=size.inner,
            num_hidden_layers=size.layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            eos_token_id=END,
            bos_token_id=None,
            initializer_range=0.03,
        )
    )


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one rendered row and where its parts begin."""

    ids: list[int]
    request_at: int
    answer_at: int


def random_path(row: Row, places: list[str], rng: random.Random) -> str:
    """The row's own path, one above it, or sometimes any path: a request may reach a model anywhere in the tree."""
    chance = rng.random()
    if chance < 0.30:
        return "master"
    if chance < 0.45:
        return rng.choice(places)
    levels = [row.lang, row.domain, row.subdomain]
    depth = rng.choice([1, 1, 2, 3]) if row.domain != "none" else 1
    return "/".join(levels[:depth])


def encode(tokenizer: Tokenizer, row: Row, path: str, dropout: float = 0.0) -> Example:
    """Render a row as the chat template does. `dropout` skips BPE merges in the request at random (Provilkov 2020)."""
    tokenizer.model.dropout = None
    head = [SYSTEM, *tokenizer.encode(system_turn(path, row.task)).ids]
    answer = [*tokenizer.encode(row.output).ids, END]
    if dropout:
        tokenizer.model.dropout = dropout
    request = [USER, *tokenizer.encode(row.input).ids] if row.input else []
    tokenizer.model.dropout = None
    ids = [*head, *request, ASSISTANT, *answer][:MAX_TOKENS]
    return Example(ids, request_at=len(head), answer_at=len(head) + len(request) + 1)


def augment(row: Row, rng: random.Random) -> Row:
    """Sometimes drop the task, the case and the closing mark, as people do."""
    text = row.input
    if rng.random() < 0.15:
        text = text.lower().rstrip("?.! ")
    return replace(row, input=text, task="" if rng.random() < TASK_DROPOUT else row.task)


def examples(rows: dict[str, list[Row]], tokenizer: Tokenizer, seed: int) -> Iterator[Example]:
    """Training examples without end: every set is walked in a new order on each pass."""
    rng = random.Random(seed)  # noqa: S311  shuffling, not secrets
    train = {name: of_split(members, "train") for name, members in rows.items()}
    places = sorted({f"{r.lang}/{r.domain}/{r.subdomain}" for m in train.values() for r in m if r.domain != "none"})
    names = list(train)
    weights = [MIXTURE[name] * len(train[name]) for name in names]
    queues: dict[str, list[Row]] = {name: [] for name in names}
    while True:
        name = rng.choices(names, weights)[0]
        if not queues[name]:
            queues[name] = rng.sample(train[name], len(train[name]))
        row = queues[name].pop()
        dropout = BPE_DROPOUT if rng.random() < 0.5 else 0.0
        yield encode(tokenizer, augment(row, rng), random_path(row, places, rng), dropout)


def batches(source: Iterator[Example], rng: random.Random) -> Iterator[list[Example]]:
    """Batches of about BATCH_TOKENS, each of rows of similar length so that little is padding."""
    while True:
        pool = sorted((next(source) for _ in range(2048)), key=lambda example: len(example.ids))
        groups: list[list[Example]] = [[]]
        for example in pool:
            if (len(groups[-1]) + 1) * len(example.ids) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(example)
        rng.shuffle(groups)
        yield from groups


def collate(batch: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids (rows x tokens) and the loss weight of every *next* token."""
    width = max(len(example.ids) for example in batch)
    ids = torch.full((len(batch), width), PAD)
    weights = torch.zeros(len(batch), width)
    for i, example in enumerate(batch):
        ids[i, : len(example.ids)] = torch.tensor(example.ids)
        weights[i, example.request_at : len(example.ids)] = PROMPT_WEIGHT
        weights[i, example.answer_at : len(example.ids)] = 1.0
    return ids, weights[:, 1:]


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted next-token cross-entropy; the output matrix is applied only where the weight is not zero."""
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    chosen = weights > 0
    logits = model.lm_head(hidden[chosen]).float()
    losses = functional.cross_entropy(logits, ids[:, 1:][chosen], reduction="none")
    return (losses * weights[chosen]).sum() / weights.sum()


def learning_rate(progress: float) -> float:
    """Warm up, hold, decay linearly to nothing (WSD): a run may be shortened as long as the decay has not begun."""
    if progress < WARM_UP:
        return PEAK_LR * progress / WARM_UP
    return PEAK_LR * min(1.0, max(0.0, (1.0 - progress) / DECAY))


def optimisers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embeddings and norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    return [
        torch.optim.Muon(matrices, lr=PEAK_LR, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=PEAK_LR, betas=(0.9, 0.95), weight_decay=0.01),
    ]


@torch.no_grad()
def exact_match(model: LlamaForCausalLM, tokenizer: Tokenizer, rows: list[Row], path: str) -> float:
    """Share of rows whose answer is the greedy continuation token for token, found without generating."""
    model.eval()
    right = 0
    for at in range(0, len(rows), 64):
        batch = [encode(tokenizer, row, path) for row in rows[at : at + 64]]
        ids, _ = collate(batch)
        best = model(input_ids=ids).logits[:, :-1].argmax(-1)
        for i, example in enumerate(batch):
            span = slice(example.answer_at - 1, len(example.ids) - 1)
            right += bool((best[i, span] == ids[i, 1:][span]).all())
    model.train()
    return right / max(1, len(rows))


class Run:
    """The model, its optimisers and how far they are; `checkpoint.pt` in `out` (own file, own machine) keeps it all."""

    def __init__(self, out: Path, seed: int, size: Size) -> None:
        torch.manual_seed(seed)
        self.model = new_model(size)
        self.model.model.embed_tokens.register_forward_hook(
            lambda module, _, output: functional.dropout(output, EMBEDDING_DROPOUT, module.training)
        )
        self.model.model.forward = torch.compile(self.model.model.forward, dynamic=True)  # 1.5 times as fast on a CPU
        self.optims = optimisers(self.model)
        self.seen, self.steps, self.seconds = 0, 0, 0.0
        self.checkpoint = out / "checkpoint.pt"
        if self.checkpoint.exists():
            self.resume()

    def resume(self) -> None:
        """Go on where the checkpoint was made."""
        state = torch.load(self.checkpoint, weights_only=True)  # noqa: TID251  its own file, tensors and numbers only
        self.model.load_state_dict(state["model"])
        for optim, saved in zip(self.optims, state["optimisers"], strict=True):
            optim.load_state_dict(saved)
        self.seen, self.steps, self.seconds = state["seen"], state["steps"], state["seconds"]

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        partial = self.checkpoint.with_suffix(".tmp")
        state = {
            "model": self.model.state_dict(),
            "optimisers": [optim.state_dict() for optim in self.optims],
            "seen": self.seen,
            "steps": self.steps,
            "seconds": self.seconds,
        }
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def step(self, batch: list[Example], rate: float) -> float:
        """One optimiser step; returns the loss, and ends the program where it is not finite."""
        ids, weights = collate(batch)
        for optim in self.optims:
            for group in optim.param_groups:
                group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(self.model, ids, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optim in self.optims:
            optim.step()
            optim.zero_grad(set_to_none=True)
        if not math.isfinite(loss.item()):
            raise SystemExit(f"the loss is not finite at step {self.steps}; the last checkpoint is {self.checkpoint}")
        self.seen, self.steps = self.seen + ids.numel(), self.steps + 1
        return loss.item()


def train(data: Path, out: Path, total_tokens: float, seed: int, size: Size) -> None:
    """Run or resume the training; writes `checkpoint.pt`, `log.jsonl` and an HF folder."""
    out.mkdir(parents=True, exist_ok=True)
    rows = load_rows(data)
    tokenizer_file = out / "tokenizer.json"
    if not tokenizer_file.exists():
        train_tokenizer(rows, seed).save(str(tokenizer_file))
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    run = Run(out, seed, size)
    rng = random.Random(seed + run.steps)  # noqa: S311  shuffling, not secrets
    stream = batches(examples(rows, tokenizer, seed + run.steps), rng)
    held_out = {name: of_split(rows[name], "validation")[:300] for name in ("clinc150", "hwu64", "home_assistant")}
    run.model.train()
    saved_at = time.monotonic()
    while run.seen < total_tokens:
        loss = run.step(next(stream), learning_rate(run.seen / total_tokens))
        now = time.monotonic()
        if now - saved_at > CHECKPOINT_S or run.seen >= total_tokens:
            run.seconds += now - saved_at
            record = {"steps": run.steps, "tokens": run.seen, "seconds": round(run.seconds), "loss": round(loss, 4)}
            record |= {name: round(exact_match(run.model, tokenizer, v, "en"), 4) for name, v in held_out.items()}
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")
            run.save()
            saved_at = now
    save_folder(run.model, tokenizer, out / "model")


def save_folder(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """The model and its tokenizer as transformers reads them."""
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL_TOKENS[PAD],
        eos_token=SPECIAL_TOKENS[END],
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
    ).save_pretrained(folder)


def main() -> None:
    """Read the flags and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the sets of the tree")
    parser.add_argument("--out", type=Path, required=True, help="work folder; an interrupted run resumes from it")
    parser.add_argument("--tokens", type=float, default=24e6, help="length of the run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", choices=SIZES, default="seedling")
    flags = parser.parse_args()
    train(flags.data, flags.out, flags.tokens, flags.seed, SIZES[flags.size])


if __name__ == "__main__":
    main()
