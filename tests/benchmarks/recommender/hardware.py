"""How far the estimates of memory and speed lie from what was measured, by others and on this machine.

    python -m tests.benchmarks.recommender.hardware --runs ../shared/data/recommender/llmfit_bench/community.csv \\
        --llama-cpp PYTHON --work FOLDER --out tests/benchmarks/recommender/hardware.json

**speed**: tokens a second of the community's runs, by constants that were fitted without the tested kind of hardware.
**fits**: whether a run lay in the card's memory or spilled into main memory shows in its speed: of the same card,
models of at most half its memory surely lie there, and a run at less than `SPILLED` of the speed that they lead to has
spilled.
**llama.cpp**: resident memory of models of published shapes, weights zero, in a process each, where `--llama-cpp` names
a Python that has xllamacpp and gguf. **engine**: the same of this project's engine for random Llamas.
Intervals are 95 %, from 2,000 draws of whole machines (speed, fits) or runs (memory).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recommender.candidate import Architecture, Candidate
from recommender.memory import bits_of, engine_need, inference_need, sizes_of
from recommender.speed import shipped_constants
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.recommender.calibrate import Run, as_arrays, cross_validated, read_runs

Floats = NDArray[np.float64]

SPILLED = 0.6
SURELY = 0.5
DRAWS = 2_000
USUAL_RULE = 1.2  # weights times this, as pickers estimate memory
ENGINE = "engine fp32"
ENGINE_RUNS = [(name, context) for name in ("tiny", "12M", "110M") for context in (2_048, 32_768)]
USUAL_EFFICIENCY = 0.55  # of the bandwidth, as llmfit estimates speed
BOUNDS = {"speed": 0.30, "memory": 0.15, "false_fits": 0.05}


def interval(values: Floats, groups: Sequence[Any], of: Any) -> dict[str, float]:
    """A statistic with its 95 % interval over draws of whole groups."""
    random = np.random.default_rng(1)
    names = sorted({*groups}, key=str)
    rows = [np.flatnonzero([group == name for group in groups]) for name in names]
    drawn = [
        float(of(values[np.concatenate([rows[i] for i in random.integers(0, len(rows), len(rows))])]))
        for _ in range(DRAWS)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": round(float(of(values)), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def speed(runs: Sequence[Run]) -> dict[str, Any]:
    """Errors of tokens a second, ours on hardware held out and those of the usual formula."""
    measured = np.array([run.tokens_per_s for run in runs])
    expected = cross_validated(runs)
    errors = np.abs(expected - measured) / measured
    arrays = as_arrays(runs)
    usual = np.abs(USUAL_EFFICIENCY * arrays.bandwidth_gb_s * 1e9 / arrays.read - measured) / measured
    hardware = [run.hardware for run in runs]
    each = {
        name: {
            "runs": hardware.count(name),
            "median_error": round(float(np.median(errors[np.array(hardware) == name])), 3),
        }
        for name in sorted({*hardware})
    }
    return {
        "runs": len(runs),
        "median_error": interval(errors, hardware, np.median),
        "within_a_factor_of_two": interval(
            (np.abs(np.log2(expected / measured)) <= 1).astype(float), hardware, np.mean
        ),
        "median_error_of_the_usual_formula": interval(usual, hardware, np.median),
        "by_hardware": each,
    }


def false_fits(runs: Sequence[Run]) -> dict[str, Any]:
    """Of the runs that are said to fit a card, those that had spilled; and of all that lay there, those refused."""
    cards = [run for run in runs if not run.machine.unified and run.machine.device == "cuda"]
    arrays = as_arrays(cards)
    memory = np.array([run.machine.memory_gb * 1e9 for run in cards])
    resident = replace(arrays, resident=np.ones(len(cards))).expected(shipped_constants())
    ratio = arrays.tokens_per_s / resident
    names = np.array([run.hardware for run in cards])
    lay = np.zeros(len(cards), dtype=np.bool_)
    told = np.zeros(len(cards), dtype=np.bool_)
    for name in {*names}:
        there = names == name
        sure = there & (arrays.need <= SURELY * memory)
        if sure.sum() >= 5:
            told |= there
            lay |= there & (ratio >= SPILLED * np.median(ratio[sure]))
    sizes = sizes_of([run.candidate for run in cards])
    said = arrays.need * sizes.safety <= memory
    usual = USUAL_RULE * sizes.parameters * _bytes_per_parameter(cards) <= memory
    fits = told & said
    return {
        "runs": int(told.sum()),
        "spilled": int((told & ~lay).sum()),
        "said_to_fit": int(fits.sum()),
        "false_fits": interval((~lay[fits]).astype(float), list(names[fits]), np.mean),
        "refused_although_they_lay_there": round(float((~said[told & lay]).mean()), 4),
        "false_fits_of_the_usual_rule": round(float((~lay[told & usual]).mean()), 4),
    }


def _bytes_per_parameter(runs: Sequence[Run]) -> Floats:
    """Bytes per parameter of each run's file."""
    sizes = sizes_of([run.candidate for run in runs])
    return np.array([bits_of(sizes, run.quantisation)[index] / 8 for index, run in enumerate(runs)])


def memory(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Errors of memory for runs that were measured here; also without the shape, as from a name alone."""
    rows = [_compare(run) for run in found]
    models = [row["model"] for row in rows]
    known, unknown = (np.array([abs(row[name] / row["peak"] - 1) for row in rows]) for name in ("known", "by_name"))
    usual = np.array([abs(row["usual"] / row["peak"] - 1) for row in rows])
    return {
        "runs": len(rows),
        "median_error": interval(known, models, np.median),
        "largest_error": round(float(known.max()), 4),
        "median_error_without_the_shape": interval(unknown, models, np.median),
        "largest_error_without_the_shape": round(float(unknown.max()), 4),
        "median_error_of_the_usual_rule": interval(usual, models, np.median),
        "too_little_with_the_margin": sum(row["known"] * row["margin"] < row["peak"] for row in rows),
        "too_little_with_the_margin_without_the_shape": sum(
            row["by_name"] * row["margin_by_name"] < row["peak"] for row in rows
        ),
        "rows": rows,
    }


def _compare(run: dict[str, Any]) -> dict[str, Any]:
    shape = Architecture(
        layers=run["layers"],
        hidden=run["hidden"],
        heads=run["heads"],
        kv_heads=run["kv_heads"],
        head_dim=run["head_dim"],
        vocabulary=run["vocabulary"],
    )
    said: dict[str, Any] = {name: run[name] for name in ("model", "kind", "context", "parameters", "peak")}
    for name, margin, known in (("known", "margin", shape), ("by_name", "margin_by_name", Architecture())):
        one = Candidate(run["model"], "import", "generative", run["parameters"] / 1e9, architecture=known)
        sizes = sizes_of([one])
        if run["kind"] == ENGINE:
            need = engine_need(sizes, float(run["context"]))
        else:
            need = inference_need(sizes, bits_of(sizes, run["kind"]), float(run["context"]), "cpu")
        said[name], said[margin] = round(float(need.total[0])), float(sizes.safety[0])
        said["usual"] = round(USUAL_RULE * float(need.weights[0]))
    return said


def llama_cpp(python: Path, work: Path) -> list[dict[str, Any]]:
    """Run every model of the worker in its Python; minutes."""
    work.mkdir(parents=True, exist_ok=True)
    worker = Path(__file__).with_name("llama_cpp_worker.py")
    done = subprocess.run([str(python), str(worker), str(work)], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def engine(work: Path) -> list[dict[str, Any]]:
    """Run the random Llamas of the benchmarks of serving through the engine, a process each."""
    from tests.benchmarks.serving.models import make_model

    found = []
    for name, context in ENGINE_RUNS:
        model = make_model(name, work)
        words = ["-m", "tests.benchmarks.recommender.engine_worker", str(model.folder), "fp32", str(context)]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
        config = model.config
        shape = {
            "layers": config.num_hidden_layers,
            "hidden": config.hidden_size,
            "heads": config.num_attention_heads,
            "kv_heads": config.num_key_value_heads,
            "head_dim": config.hidden_size // config.num_attention_heads,
            "vocabulary": config.vocab_size,
        }
        said = {"model": name, "kind": ENGINE, "context": context, "parameters": model.parameters}
        found.append({**said, **shape, **json.loads(done.stdout.splitlines()[-1])})
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; the exit code is 1 where a bound was not kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.recommender.hardware", description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--llama-cpp", type=Path, help="a Python with xllamacpp, gguf, numpy and psutil")
    parser.add_argument("--measured", type=Path, help="JSON lines that the worker printed before, instead")
    parser.add_argument("--work", type=Path, default=Path("hardware-work"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    runs, left_out = read_runs(given.runs)
    found: dict[str, Any] = {
        "machine": describe_machine(),
        "left_out": dict(sorted(left_out.items())),
        "speed": speed(runs),
        "fits": false_fits(runs),
    }
    if given.measured:
        lines = given.measured.read_text(encoding="utf-8").splitlines()
        found["llama_cpp"] = memory([json.loads(line) for line in lines])
    elif given.llama_cpp:
        found["llama_cpp"] = memory(llama_cpp(given.llama_cpp, given.work))
    given.work.mkdir(parents=True, exist_ok=True)
    found["engine"] = memory(engine(given.work))
    sys.stdout.write(json.dumps({**found, "machine": "..."}, indent=1) + "\n")
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    kept = found["speed"]["median_error"]["value"] <= BOUNDS["speed"]
    kept = kept and found["fits"]["false_fits"]["value"] <= BOUNDS["false_fits"]
    kept = kept and found.get("llama_cpp", {}).get("median_error", {"value": 0})["value"] <= BOUNDS["memory"]
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
