"""Build the snapshot from the tables of others: `python -m recommender.snapshot.build --data FOLDER`.

Of EuroEval's protocol variants one stands for each model: few-shot before zero-shot, test before validation split.
What nobody could compare stays out: benchmarks with few models, models with few scores.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from recommender.candidate import Candidate, Kind
from recommender.embed import embed
from recommender.evidence import Evidence, Measurement
from recommender.quality import GRADES, WEIGHTS, Predictor
from recommender.selection import chosen_weights
from recommender.snapshot.euroeval import base_of, euroeval
from recommender.snapshot.files import FOLDER, Snapshot, merged, read, write
from recommender.snapshot.models_dev import models_dev
from recommender.snapshot.mteb import mteb
from recommender.snapshot.open_llm import open_llm

FEWEST_MODELS: Final = 20
FEWEST_SCORES: Final = {"EuroEval": 4, "MTEB": 10, "Open LLM Leaderboard": 4}


def build(data: Path) -> Snapshot:
    """The snapshot, nothing learned yet, of a folder with euroeval/, mteb/, open_llm_leaderboard/ and models_dev/."""
    european = one_variant(*euroeval(data / "euroeval"))
    parts = [european, mteb(data / "mteb"), open_llm(data / "open_llm_leaderboard")]
    evidence = Evidence.joined([comparable(part) for _, part in parts])
    every = merged([candidates for candidates, _ in parts] + [models_dev(data / "models_dev")])
    measured = set(evidence.models)
    candidates = {name: one for name, one in every.items() if name in measured or one.price_usd_per_mtok is not None}
    described = [one for one in evidence.benchmarks if one.text]
    vectors = embed([one.text for one in described])
    texts = {one.name: vector.astype(np.float64) for one, vector in zip(described, vectors, strict=True)}
    return Snapshot(candidates, evidence, texts, {})


def learn(snapshot: Snapshot, kind: Kind) -> dict[str, Any]:
    """Weights of relations and of metadata, and widths of intervals, for one kind of model, from this evidence."""
    evidence, candidates = snapshot.evidence, snapshot.candidates
    given = snapshot.texts if kind == "embedding" else None
    weights = WEIGHTS[kind]
    if given is None:
        plain = Predictor.fit(evidence, candidates, kind, factors_known=[1.0] * len(GRADES))
        weights = chosen_weights(plain.scores, plain.prior, plain.benchmarks, weights)
    return Predictor.fit(evidence, candidates, kind, weights=weights, texts=given).learned()


def comparable(evidence: Evidence) -> Evidence:
    """Without benchmarks that few models ran and models with few scores."""
    models = np.bincount(evidence.benchmark, minlength=len(evidence.benchmarks))
    kept = evidence.where(models[evidence.benchmark] >= FEWEST_MODELS)
    counts = np.bincount(kept.model, minlength=len(kept.models))
    fewest = np.array([FEWEST_SCORES[one.source] for one in kept.benchmarks])
    return kept.where(counts[kept.model] >= fewest[kept.benchmark])


def one_variant(candidates: Mapping[str, Candidate], evidence: Evidence) -> tuple[dict[str, Candidate], Evidence]:
    """One candidate for each model behind EuroEval's entries, with its scores by the best protocol there is."""
    models = {base_of(name): replace(one, id=base_of(name)) for name, one in candidates.items()}
    best: dict[tuple[str, int], tuple[tuple[bool, bool], int]] = {}
    for cell, (row, benchmark) in enumerate(zip(evidence.model, evidence.benchmark, strict=True)):
        name = evidence.models[row]
        rank = ("zero-shot" in name.partition(" (")[2], "val" in name.partition(" (")[2])
        place = (base_of(name), int(benchmark))
        if place not in best or rank < best[place][0]:
            best[place] = (rank, cell)
    return models, Evidence.of(
        Measurement(
            name,
            evidence.benchmarks[benchmark],
            float(evidence.value[cell]),
            float(evidence.half_width[cell]),
        )
        for (name, benchmark), (_, cell) in best.items()
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, build, write."""
    parser = argparse.ArgumentParser(prog="python -m recommender.snapshot.build", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the tables of others")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the snapshot goes")
    given = parser.parse_args(arguments)
    write(given.out, build(given.data))
    stored = read(given.out)  # in fewer bits: what is shipped is learned from what is shipped
    write(given.out, replace(stored, learned={kind: learn(stored, kind) for kind in get_args(Kind)}))


if __name__ == "__main__":
    main()
