"""The snapshot as files of the wheel: models, benchmarks and scores in parquet, what was learned of them in JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from recommender.candidate import Architecture, Candidate, Kind
from recommender.evidence import Benchmark, Evidence, Floats
from recommender.quality import Predictor

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER: Final = Path(__file__).parent / "data"
_LISTS: Final = frozenset({"languages", "tasks", "domains", "subdomains"})


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Models and evidence that a new node starts with. `texts` are vectors of benchmarks' descriptions, by name."""

    candidates: Mapping[str, Candidate]
    evidence: Evidence
    texts: Mapping[str, Floats]
    learned: Mapping[str, Any]  # by kind: what `Predictor.learned` gives

    def quality(self, kind: Kind) -> Predictor:
        """What the snapshot says of one kind of model; nothing is learned again."""
        texts = self.texts if kind == "embedding" else None
        return Predictor.restored(self.evidence, self.candidates, kind, self.learned[kind], texts)


def write(folder: Path, snapshot: Snapshot) -> None:
    """Write the files of a snapshot into a folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    evidence = snapshot.evidence
    models = [_flat(one) for one in snapshot.candidates.values()]
    benchmarks = [asdict(one) | {"vector": _packed(snapshot.texts.get(one.name))} for one in evidence.benchmarks]
    place = {name: row for row, name in enumerate(snapshot.candidates)}
    scores = {
        "model": np.array([place[name] for name in evidence.models], dtype=np.int32)[evidence.model],
        "benchmark": evidence.benchmark.astype(np.int16),
        "value": evidence.value.astype(np.float32),
        "half_width": evidence.half_width.astype(np.float32),
    }
    for name, table in (
        ("models", pa.Table.from_pylist(models)),
        ("benchmarks", pa.Table.from_pylist(benchmarks)),
        ("scores", pa.table(scores)),
    ):
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd", compression_level=19)
    (folder / "learned.json").write_text(json.dumps(snapshot.learned) + "\n")


@lru_cache(maxsize=1)
def read(folder: Path = FOLDER) -> Snapshot:
    """Read the files of a snapshot; one is kept."""
    candidates = [_candidate(row) for row in _table(folder / "models.parquet").to_pylist()]
    rows = _table(folder / "benchmarks.parquet").to_pylist()
    vectors = {row["name"]: row.pop("vector") for row in rows}
    scores = _table(folder / "scores.parquet")
    columns = {name: scores[name].to_numpy() for name in scores.column_names}
    evidence = Evidence(
        tuple(one.id for one in candidates),
        tuple(
            Benchmark(**{**row, "languages": tuple(row["languages"]), "domains": tuple(row["domains"])}) for row in rows
        ),
        columns["model"].astype(np.int64),
        columns["benchmark"].astype(np.int64),
        columns["value"].astype(np.float64),
        columns["half_width"].astype(np.float64),
        np.zeros(len(scores), dtype=np.int64),
        np.zeros(len(scores), dtype=np.bool_),
    )
    texts = {name: np.frombuffer(packed, np.float16).astype(np.float64) for name, packed in vectors.items() if packed}
    return Snapshot(
        {one.id: one for one in candidates}, evidence, texts, json.loads((folder / "learned.json").read_text())
    )


def _table(file: Path) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.ParquetFile(file).read()  # `read_table` would bring its data sets too, which take longer than all else


def merged(parts: Iterable[Mapping[str, Candidate]]) -> dict[str, Candidate]:
    """Candidates of several tables as one: the first table that states a fact counts."""
    models: dict[str, Candidate] = {}
    for part in parts:
        for name, one in part.items():
            known = models.get(name)
            models[name] = one if known is None else _filled(known, one)
    return models


def _filled(known: Candidate, other: Candidate) -> Candidate:
    facts = (field.name for field in fields(Candidate) if field.name != "architecture")
    return replace(known, **{name: getattr(other, name) for name in facts if getattr(known, name) in (None, ())})


def _flat(one: Candidate) -> dict[str, Any]:
    return {field.name: getattr(one, field.name) for field in fields(one) if field.name != "architecture"} | {
        f"architecture.{name}": value for name, value in asdict(one.architecture).items()
    }


def _candidate(row: dict[str, Any]) -> Candidate:
    shape = {name.partition(".")[2]: row.pop(name) for name in list(row) if name.startswith("architecture.")}
    facts: dict[str, Any] = {name: tuple(value or ()) if name in _LISTS else value for name, value in row.items()}
    return Candidate(**facts, architecture=Architecture(**shape))


def _packed(vector: Floats | None) -> bytes | None:
    return None if vector is None else vector.astype(np.float16).tobytes()
