"""The snapshot that is shipped can be read and used at once, and is rebuilt from tables of the same shape."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from recommender.candidate import Candidate, Kind
from recommender.constraints import Constraints, Stated
from recommender.evidence import Benchmark, Evidence, Measurement
from recommender.expected import shipped_quality
from recommender.quality import Predictor
from recommender.snapshot.build import one_variant
from recommender.snapshot.euroeval import euroeval, is_open
from recommender.snapshot.files import Snapshot, merged, read, write
from recommender.snapshot.licences import licence, sellable
from recommender.snapshot.mteb import codes


def test_a_new_node_can_tell_real_models_apart() -> None:
    snapshot = read()
    names = [name for name, one in snapshot.candidates.items() if one.kind == "generative"]
    assert len(names) > 300
    models = [snapshot.candidates[name] for name in ("google/gemma-3-27b-it", "google/gemma-3-1b-it")]
    need = Constraints(task=Stated(value="summarization"), languages=Stated(value=("is",)))
    found = shipped_quality()(models, need)
    assert found.mean[0] > found.mean[1]
    assert (found.low < found.mean).all() and (found.mean < found.high).all()
    assert set(found.grade) <= {"same task other language", "predicted"}


@pytest.mark.parametrize("kind", get_args(Kind))
def test_what_is_shipped_as_learned_is_what_a_fresh_fit_learns(kind: Kind) -> None:
    snapshot = read()
    shipped = snapshot.quality(kind)
    texts = snapshot.texts if kind == "embedding" else None
    fresh = Predictor.fit(
        snapshot.evidence,
        snapshot.candidates,
        kind,
        weights=shipped.weights,
        texts=texts,
        factors_known=shipped.factors.tolist(),
    )
    assert list(fresh.metadata.words) == list(shipped.metadata.words)
    for name in ("scores", "level", "spread", "prior", "between"):
        assert getattr(shipped, name) == pytest.approx(getattr(fresh, name), abs=1e-6, nan_ok=True), name
    assert shipped.metadata.weights == pytest.approx(fresh.metadata.weights, abs=1e-6)


def test_every_shipped_score_has_a_source_and_a_licence_that_lets_it_travel() -> None:
    evidence = read().evidence
    assert len(evidence) > 50_000
    assert {one.license for one in evidence.benchmarks} == {"MIT", "CC0-1.0"}
    assert all(one.source and one.name for one in evidence.benchmarks)
    assert np.isfinite(evidence.value).all() and np.abs(evidence.value).max() <= 100
    folder = Path("recommender/snapshot/data")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3_000_000


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    one = Candidate(
        "a/b", "table", "embedding", parameters_b=0.1, languages=("de", "en"), license="MIT", commercial=True
    )
    cell = Benchmark(
        "STS", ("de",), ("News",), "embedding", name="STSde", source="MTEB", license="CC0-1.0", text="pairs"
    )
    vector = np.linspace(-1, 1, 8)
    learned = {"embedding": {"weights": {}, "factors": [1.0] * 5}}
    evidence = Evidence.of([Measurement("a/b", cell, 61.5, 0.5)])
    write(tmp_path, Snapshot({"a/b": one}, evidence, {"STSde": vector}, learned))
    found = read(tmp_path)
    assert found.candidates == {"a/b": one}
    assert found.evidence.benchmarks == (cell,)
    assert found.evidence.table().tolist() == [[61.5]]
    assert found.texts["STSde"] == pytest.approx(vector, abs=1e-3)
    assert found.learned == learned


def test_protocol_variants_are_one_model_with_the_best_protocol_of_each_score(tmp_path: Path) -> None:
    head = "model,url,type,parameters,vocabulary,context,commercial,merge,open,trained_from_scratch\n"
    variants = ["m/x", "m/x (val)", "m/x (zero-shot, val)"]
    (tmp_path / "models.csv").write_text(
        head
        + "".join(f'"{name}",,📝,7e9,32000.0,8192.0,✓,✗,(✓),✗\n' for name in variants)
        + "m/closed,,📝,?,?,nan,✗,✗,✗,✗\n"
    )
    (tmp_path / "scores.csv").write_text(
        "model,language,dataset,task,primary,primary_ci,secondary,secondary_ci\n"
        "m/x,danish,mmlu_da,knowledge,50,1,,\n"
        '"m/x (val)",danish,mmlu_da,knowledge,60,1,,\n'
        '"m/x (zero-shot, val)",german,mmlu_de,knowledge,30,1,,\n'
        '"m/x (val)",german,mmlu_de,knowledge,40,,,\n'
    )
    candidates, evidence = euroeval(tmp_path)
    assert len(evidence) == 4
    assert candidates["m/closed"].weights == "api" and candidates["m/closed"].parameters_b is None
    assert is_open(tmp_path) == set(variants)
    models, scores = one_variant(candidates, evidence)
    assert set(models) == {"m/x", "m/closed"}
    assert {scores.benchmarks[row].name: value for row, value in zip(scores.benchmark, scores.value, strict=True)} == {
        "mmlu_da": 50,
        "mmlu_de": 40,
    }
    assert {one.family for one in scores.benchmarks} == {"mmlu"}


def test_tables_fill_each_others_gaps() -> None:
    first = {"a/b": Candidate("a/b", "table", "generative", parameters_b=7)}
    second = {"a/b": Candidate("a/b", "table", "generative", parameters_b=8, license="MIT")}
    one = merged([first, second])["a/b"]
    assert (one.parameters_b, one.license) == (7, "MIT")


@pytest.mark.parametrize(
    ("written", "spdx", "sold"),
    [
        ("apache-2.0", "Apache-2.0", True),
        ("cc-by-nc-4.0", "CC-BY-NC-4.0", False),
        ("gemma", None, None),
        ("not specified", None, None),
        ("", None, None),
    ],
)
def test_licences(written: str, spdx: str | None, sold: bool | None) -> None:
    assert licence(written) == spdx
    assert sellable(spdx) is sold


def test_language_codes() -> None:
    assert codes("eng-Latn|deu-Latn|fao-Latn|python-Code|") == ("de", "en", "fo")
