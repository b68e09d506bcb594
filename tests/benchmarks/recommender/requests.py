"""APIBench: find the card of the model that a request in words is about, without any LLM.

Weights of the signals are learned from requests about other cards (five folds, no card on both sides).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold

from recommender.cards import SIGNALS, WEIGHTS, Cards, CardText, learned
from recommender.embed import embed
from recommender.evidence import Floats


def measure(folder: Path) -> dict[str, Any]:
    """All figures of this part."""
    texts: dict[str, CardText] = {}
    for line in (folder / "huggingface_api.jsonl").read_text().splitlines():
        row = json.loads(line)
        task = f"{row['domain']}. {row['functionality']}"
        texts.setdefault(row["api_name"], CardText(row["api_name"], task, row["description"]))
    rows = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
    requests = [row["code"].partition("###Output")[0].replace("###Instruction:", "").strip() for row in rows]
    cards = Cards.of(list(texts.values()))
    place = {name: row for row, name in enumerate(cards.models)}
    right = np.array([place[row["api_data"]["api_name"]] for row in rows])
    signals = cards.signals(requests)
    plain = embed(requests) @ embed([one.whole for one in texts.values()]).T
    ours = np.zeros(plain.shape)
    for known, asked in GroupKFold(5).split(requests, groups=right):
        ours[asked] = signals[asked] @ learned(signals[known], right[known])
    domains = np.array([one.task.partition(".")[0] for one in texts.values()])
    oracle = np.where(domains[None] == domains[right][:, None], ours, ours - 1e3)
    ways = {
        "random": np.random.default_rng(0).random(plain.shape),
        "BM25": signals[..., SIGNALS.index("words")],
        "MiniLM": plain,
        "ours, equal folds": ours,
        "ours, weights as shipped": signals @ np.array(WEIGHTS),
        "ours, were the domain known": oracle,
    }
    result: dict[str, Any] = {"requests": len(requests), "cards": len(texts)}
    result |= {name: recalled(points, right, domains) for name, points in ways.items()}
    result["weights on all requests"] = [round(float(one), 2) for one in learned(signals, right)]
    return result


def recalled(points: Floats, right: Any, domains: Any) -> dict[str, Any]:
    """Recall of the right card among the first one and ten and of its domain at the first, with 95 % over cards."""
    order = np.argsort(-points, axis=1, kind="stable")
    rank = (order == right[:, None]).argmax(1)
    hits = np.stack([rank < 1, rank < 10, domains[order[:, 0]] == domains[right]]).astype(float)
    _, cluster = np.unique(right, return_inverse=True)
    count = cluster.max() + 1
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=1000)[:, cluster]
    samples = hits @ drawn.T / drawn.sum(1)
    low, high = np.quantile(samples, (0.025, 0.975), axis=1)
    return {
        name: {
            "mean": round(float(hits[row].mean()), 4),
            "ci95": [round(float(low[row]), 4), round(float(high[row]), 4)],
        }
        for row, name in enumerate(("recall@1", "recall@10", "domain@1"))
    }
