"""Head to head with llmfit, a picker by hardware: on the same card, whose pick scores higher on EuroEval?

    python -m tests.benchmarks.recommender.pickers --llmfit PROGRAM [ARGUMENT...] --out FILE

For every amount of memory, language and task: its pick is the first of its ranking that EuroEval has measured there;
ours is what is expected to be best of what fits, by evidence from which the language was left out. `same pool` lets us
choose only among the models that llmfit lists. llmfit knows nothing of languages and tasks. whichllm is not compared:
it fetches its models from the network and lists none without it. Ties count half; intervals are 95 %, over languages.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recommender.candidate import Candidate
from recommender.columns import Columns
from recommender.evidence import Benchmark, Evidence
from recommender.fits import Forms, fits_of
from recommender.hardware import GIB, described_machine
from recommender.kriging import Weights
from recommender.quality import Predictor
from recommender.snapshot.files import read
from tests.benchmarks.machine import describe_machine

MEMORIES_GIB = (4, 6, 8, 12, 16, 24, 48, 80)
RAM_GIB = 32
DRAWS = 2_000
REPACKED = re.compile(r"[-_](gguf|awq|gptq|fp8|nvfp4|mxfp4|int[48]|[48]bit|bnb|mlx|quantized.*|w[48]a\d+)$")


def plain(name: str) -> str:
    """A model's name without its owner and what its repackers add."""
    short, before = name.rpartition("/")[2].lower(), ""
    while short != before:
        before, short = short, REPACKED.sub("", short)
    return short


def llmfit_ranking(program: Sequence[str], memory_gib: int) -> list[str]:
    """All models that llmfit recommends for a card, best first."""
    sizes = ["--memory", f"{memory_gib}G", "--ram", f"{RAM_GIB}G", "--json", "recommend", "--limit", "100000"]
    done = subprocess.run([*program, *sizes], capture_output=True, text=True, check=True)
    return [plain(model["name"]) for model in json.loads(done.stdout)["models"]]


def cells(evidence: Evidence) -> dict[tuple[str, str], list[int]]:
    """Columns of the table of scores by language and task."""
    found: dict[tuple[str, str], list[int]] = {}
    for place, benchmark in enumerate(evidence.benchmarks):
        if benchmark.source == "EuroEval" and len(benchmark.languages) == 1:
            found.setdefault((benchmark.languages[0], benchmark.task), []).append(place)
    return found


def fitting(pool: Sequence[Candidate]) -> dict[int, NDArray[np.bool_]]:
    """Which of the pool fits a card of each size."""
    forms = Forms.of(Columns.of(pool))
    found = {}
    for memory in MEMORIES_GIB:
        card = described_machine(device="cuda", memory_gb=memory * GIB / 1e9)
        found[memory] = fits_of(forms, card, context_tokens=None, least_tokens_per_s=None).memory_gb <= card.memory_gb
    return found


def compare(rankings: Mapping[int, list[str]]) -> list[dict[str, Any]]:
    """One row for each pair of picks that both have a score."""
    snapshot = read()
    evidence = snapshot.evidence.of_kind("generative")
    table, models = evidence.table(), {name: row for row, name in enumerate(evidence.models)}
    pool = [snapshot.candidates[name] for name in models if snapshot.candidates[name].weights == "local"]
    rows = np.array([models[one.id] for one in pool])
    by_name = {plain(one.id): place for place, one in enumerate(pool)}
    listed = np.isin([plain(one.id) for one in pool], sorted({name for names in rankings.values() for name in names}))
    fits, found = fitting(pool), []
    weights = Weights(**snapshot.learned["generative"]["weights"])
    known = snapshot.learned["generative"]["factors"]
    for language in sorted({language for language, _ in cells(evidence)}):
        others = evidence.where(
            np.array([language not in evidence.benchmarks[at].languages for at in evidence.benchmark])
        )
        predictor = Predictor.fit(others, snapshot.candidates, "generative", weights=weights, factors_known=known)
        for (spoken, task), columns in cells(evidence).items():
            if spoken != language:
                continue
            scores = table[np.ix_(rows, columns)].mean(axis=1)  # nan unless all of them were measured
            measured = ~np.isnan(scores)
            expected = predictor.predict(pool, Benchmark(task, (language,), (), "generative")).mean
            for memory, ranking in rankings.items():
                places = (by_name[name] for name in ranking if name in by_name)
                theirs = next((place for place in places if measured[place]), None)
                for label, allowed in (("any model", fits[memory]), ("same pool", fits[memory] & listed)):
                    mine = np.where(allowed & measured, expected, -np.inf)
                    if theirs is None or not np.isfinite(mine).any():
                        continue
                    ours = int(np.argmax(mine))
                    best = float(np.max(np.where(allowed & measured, scores, -np.inf)))
                    said = {"pool": label, "memory_gib": memory, "language": language, "task": task}
                    picks = {"ours": pool[ours].id, "theirs": pool[theirs].id, "best": best}
                    found.append(said | picks | {"our_score": scores[ours], "their_score": scores[theirs]})
    return found


def summary(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How often our pick scores higher, and by how much."""
    gain = np.array([pair["our_score"] - pair["their_score"] for pair in pairs])
    won = np.where(gain > 0, 1.0, np.where(gain == 0, 0.5, 0.0))
    languages = np.array([pair["language"] for pair in pairs])
    random, names = np.random.default_rng(1), sorted({*languages})
    groups = [np.flatnonzero(languages == name) for name in names]
    drawn = [np.concatenate([groups[i] for i in random.integers(0, len(groups), len(groups))]) for _ in range(DRAWS)]

    def with_interval(values: NDArray[np.float64]) -> dict[str, float]:
        low, high = np.percentile([values[rows].mean() for rows in drawn], [2.5, 97.5])
        return {"value": round(float(values.mean()), 3), "low": round(float(low), 3), "high": round(float(high), 3)}

    return {
        "pairs": len(pairs),
        "languages": len(names),
        "same_pick": int((gain == 0).sum()),
        "win_rate": with_interval(won),
        "points_more": with_interval(gain),
        "our_regret": with_interval(np.array([pair["best"] - pair["our_score"] for pair in pairs])),
        "their_regret": with_interval(np.array([pair["best"] - pair["their_score"] for pair in pairs])),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare and write."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.recommender.pickers", description=__doc__)
    parser.add_argument("--llmfit", nargs="+", required=True, help="how llmfit is run")
    parser.add_argument("--out", type=Path)
    given, _ = parser.parse_known_args(arguments)
    version = subprocess.run([*given.llmfit, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    pairs = compare({memory: llmfit_ranking(given.llmfit, memory) for memory in MEMORIES_GIB})
    found: dict[str, Any] = {"machine": describe_machine(), "against": version}
    for label in ("any model", "same pool"):
        own = [pair for pair in pairs if pair["pool"] == label]
        found[label] = summary(own)
        found[label]["by_memory_gib"] = {
            memory: summary([pair for pair in own if pair["memory_gib"] == memory])
            for memory in MEMORIES_GIB
            if any(pair["memory_gib"] == memory for pair in own)
        }
        found[label]["their_picks"] = sorted({pair["theirs"] for pair in own})
    sys.stdout.write(json.dumps({**found, "machine": "..."}, indent=1) + "\n")
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
