"""Seeds of the network with faults: all of them hold, and each is the same run whenever and wherever it is played."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulations import faults
from simulations.forest import Forest
from simulations.trial import Outcome

ROOT = Path(__file__).parents[2]
SEEDS = 60
BATCH = 20
COUNTED = {"rounds", "pulled", "refused", "updates", "forgeries", "releases"}


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_everything_holds(forest: Forest, first: int) -> None:
    outcomes = [forest.play(seed) for seed in range(first, first + BATCH)]
    failed = [
        f"python -m simulations.faults --replay {one.seed} --verbose: {one.problems}"
        for one in outcomes
        if one.problems
    ]
    assert failed == []
    assert all(any(one.facts.get(name) for one in outcomes) for name in COUNTED)  # all of it does happen


def test_a_seed_is_the_same_run_in_every_process(forest: Forest) -> None:
    lines: list[str] = []
    here = forest.play(3, lines.append)
    assert forest.play(3).trace == here.trace
    assert forest.play(4).trace != here.trace
    command = [sys.executable, "-m", "simulations.faults", "--replay", "3", "--verbose"]
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    there = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=True, timeout=120)
    assert there.stdout.splitlines() == lines


def outcome(seed: int) -> Outcome:
    return Outcome(seed, ("the sky fell",) if seed == 7 else (), "0" * 64, {"rounds": 2})


def test_what_failed_is_printed_and_a_run_goes_on_where_it_was_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    played: list[int] = []

    def play_all(seeds: range, workers: int) -> list[tuple[Outcome, float]]:
        played.extend(seeds)
        return [(outcome(seed), 0.5) for seed in seeds]

    monkeypatch.setattr(faults, "play_all", play_all)
    out = tmp_path / "results" / "faults.json"
    assert faults.main(["--seeds", "0:100", "--out", str(out)]) == 1
    said = capsys.readouterr().out
    assert "seed 7: the sky fell" in said
    assert "python -m simulations.faults --replay 7 --verbose" in said
    assert faults.main(["--seeds", "0:150", "--out", str(out)]) == 1
    assert played == list(range(150))
    found = json.loads(out.read_text())
    assert (found["seeds"], found["failed"], found["totals"]) == (150, {"7": ["the sky fell"]}, {"rounds": 300})
    assert found["cpu_s_per_seed"] == 0.5
    assert faults.main(["--seeds", "8:10"]) == 0


def test_two_workers_play_the_seeds_in_their_order() -> None:
    found = [one.seed for one, _ in faults.play_all(range(2), 2)]
    assert found == [0, 1]


def test_the_committed_run_held() -> None:
    found = json.loads((ROOT / faults.RESULTS).read_text())
    assert found["failed"] == {}
    assert found["seeds"] >= SEEDS
