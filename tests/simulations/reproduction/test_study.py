"""Cells on the disk, learning rates, findings, and the command from end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from simulations.reproduction.__main__ import main
from simulations.reproduction.findings import compared, findings, rank_correlation
from simulations.reproduction.grid import Player, Sources, play_all
from simulations.reproduction.paper import SKEWED_R1, TABLE
from simulations.reproduction.study import Study, best, figure, run
from simulations.reproduction.table import lines

TINY = Study(
    methods=("fedit", "lora-a2", "centralised"), columns=(SKEWED_R1,), swept=SKEWED_R1, rates=(1e-3, 1e-2),
    rounds=2, epochs=1, clients=3, sweep_rounds=1, most_rows=30,
)  # fmt: skip


@pytest.fixture
def player(data: Path, model: Path, tmp_path: Path) -> Player:
    return Player(Sources(data, model, tmp_path / "work"))


def files(player: Player) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (player.sources.work / "cells").iterdir()}


def silent(done: int, total: int, which: str) -> None:
    pass


def test_what_was_stopped_goes_on_to_the_same_findings(player: Player) -> None:
    whole = findings(TINY, *run(TINY, player, 1, silent))
    before = files(player)
    stale = sorted(before)[0]
    (player.sources.work / "cells" / stale).unlink()
    seen: list[str] = []

    def stop(done: int, total: int, which: str) -> None:
        seen.append(which)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(TINY, player, 1, stop)
    assert len(seen) == 1 and "0 min left" in seen[0]
    assert files(player) == before
    assert findings(TINY, *run(TINY, player, 1, stop)) == whole
    assert len(seen) == 1  # nothing was played again


def test_two_processes_make_the_same_files_as_one(player: Player, tmp_path: Path) -> None:
    cells = [cell for cells in TINY.sweep().values() for cell in cells][:3]
    other = Player(replace(player.sources, work=tmp_path / "other"))
    play_all(player, cells, 1, silent)
    play_all(other, cells, 2, silent)
    assert files(other) == files(player)


def test_rates_are_chosen_on_other_rows_than_figures_are_of() -> None:
    sweep = TINY.sweep()
    assert {cell.judged for cells in sweep.values() for cell in cells} == {"validation"}
    table = TINY.table(dict.fromkeys(sweep, 1e-2))
    assert {cell.judged for cells in table.values() for cell in cells} == {"test"}
    cells = sweep["fedit"]
    played = {cell: {"accuracy": [0.5, cell.learning_rate]} for cell in cells}
    assert best(cells, played) == 1e-2
    assert best(cells, {cell: {"accuracy": [0.5]} for cell in cells}) == 1e-3


def test_findings_hold_what_the_paper_says_beside_ours(player: Player) -> None:
    found = findings(TINY, *run(TINY, player, 1, silent))
    column = found["columns"]["Dir(0.01) r1"]
    assert column["methods"]["lora-a2"]["paper"] == 68.88
    assert column["methods"]["centralised"]["paper"] is None
    assert set(found["learning_rates"]["fedit"]["tried"]) == {"0.001", "0.01"}
    assert len(column["methods"]["fedit"]["curves"][0]) == 2
    assert column["methods"]["fedit"]["share"] == 1
    assert column["paper_order"] == ["lora-a2", "fedit"]
    text = "\n".join(lines(found))
    assert "Dir(0.01) r1" in text and "order in paper: lora-a2 > fedit" in text


def test_agreement_is_judged_pair_by_pair() -> None:
    figures = {"fedit": [50.0], "ffa-lora": [40.0], "flexlora": [51.0], "lora-a2": [45.0]}
    found = compared(SKEWED_R1, figures, judged=1000)
    assert found["order"] == ["flexlora", "fedit", "lora-a2", "ffa-lora"]
    assert found["paper_order"] == ["lora-a2", "fedit", "flexlora", "ffa-lora"]
    by_pair = {tuple(pair["pair"]): pair for pair in found["pairs"]}
    assert len(by_pair) == 6
    assert by_pair["fedit", "ffa-lora"]["same"] and by_pair["fedit", "ffa-lora"]["resolved"]
    assert not by_pair["fedit", "lora-a2"]["same"]
    assert not by_pair["fedit", "flexlora"]["resolved"]
    assert by_pair["fedit", "lora-a2"]["paper"] == pytest.approx(45.78 - 68.88)
    same = compared(SKEWED_R1, {m: [TABLE[m][SKEWED_R1]] for m in TABLE}, judged=1000)
    assert same["rank_correlation"] == pytest.approx(1) and all(pair["same"] for pair in same["pairs"])


def test_rank_correlation() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9487, abs=1e-4)
    assert rank_correlation([1, 1], [1, 2]) is None


def test_the_command_plays_the_smallest_table(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", str(data), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--smallest"]
    assert main([*words, "--only", "fedit", "lora-a2", "centralised"]) == 0
    said = capsys.readouterr()
    assert "rank correlation" in said.out and "min left" in said.err
    written = json.loads((tmp_path / "out" / "reproduction.json").read_bytes())
    assert set(written["columns"]) == {"Dir(0.5) r8", "Dir(0.01) r8", "Dir(0.01) r1"}
    assert written["machine"] and written["date"] and written["settings"]["rounds"] == 2
    assert (tmp_path / "out" / "reproduction.svg").read_text().count("<svg") == 1
    assert (tmp_path / "out" / "reproduction.txt").read_text() == said.out
    assert main([*words, "--only", "fedit", "lora-a2", "centralised"]) == 0
    assert capsys.readouterr().err == ""  # all cells were there
    assert json.loads((tmp_path / "out" / "reproduction.json").read_bytes()) == written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "fedprox"], "unknown method"),
        (["--clients", "0"], "clients"),
        (["--rounds", "-1"], "rounds"),
        (["--seeds", "0"], "seeds"),
        (["--workers", "0"], "processes"),
        (["--data", "/nowhere"], "no banking77.train.jsonl in /nowhere"),
    ],
)
def test_the_command_says_what_is_wrong(
    words: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(data), "--work", str(tmp_path), "--smallest", *words]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 2


@pytest.mark.parametrize(
    ("rounds", "mean"), [([0.1], 0.1), ([0.0, 0.4], 0.4), ([0.0] * 4 + [0.1, 0.2, 0.3, 0.4], 0.25)]
)
def test_a_figure_is_of_the_last_rounds(rounds: list[float], mean: float) -> None:
    assert figure({"accuracy": rounds}) == pytest.approx(mean)
