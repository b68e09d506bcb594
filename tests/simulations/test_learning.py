"""Trees that learn: the whole harness on the toy model, in seconds; and what it says to what cannot be played."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from node.cli import main
from node.starter import BUNDLED
from registry.errors import BadData, LocalFailure
from registry.rows import Row, read_rows, write_rows
from simulations.learning import base, grid
from simulations.learning.findings import compared, figures, percentile, recommend
from simulations.learning.grid import play_all
from simulations.learning.playing import Played, Playing, Sources
from simulations.learning.report import page
from simulations.learning.scenario import POLICY_NAMES, Scenario, attackers_of, check, check_bound, days_of
from simulations.learning.studies import attacks, forgetting, policies, told
from simulations.learning.world import named
from sync.model import load_tokenizer
from sync.policy import POLICIES
from tests.toy import KNOWN, SHAPES, rows

LEAF = "en/shapes/words"
TINY = Scenario(leaves=(LEAF,), clients=2, days=1, rows_a_day=90.0, batch=45, test_rows=6, away=0.0, slow=0.0)


@pytest.fixture(scope="module")
def sources(toy_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Rows of one subdomain, and the toy model where the tiny base would be."""
    root = tmp_path_factory.mktemp("learning")
    (root / "bundled").mkdir()
    known = [replace(row, task="intent") for row in rows(KNOWN, range(30))]
    write_rows(known, root / "bundled" / "anchors.jsonl")
    write_rows(known[:100], root / "bundled" / "validation.jsonl")
    lang, domain, subdomain = LEAF.split("/")
    place = {"lang": lang, "domain": domain, "subdomain": subdomain, "task": "intent"}
    lines = [json.dumps({"input": row.input, "output": row.output, **place}) for row in rows(SHAPES, range(60))]
    (root / "data" / "toy").mkdir(parents=True)
    (root / "data" / "toy" / "toy.train.jsonl").write_text("\n".join(lines) + "\n")
    shutil.copytree(toy_base, root / "work" / "tiny")
    return Sources(root / "data", root / "bundled", root / "work")


@pytest.fixture(scope="module")
def played(sources: Sources) -> list[Played]:
    """Three policies, and the first under attack."""
    cells = [Playing("always", 1), Playing("never", 1), Playing("oracle", 1), Playing("always", 1, 0.5, "sign-flip")]
    return play_all(TINY, sources, cells, workers=1)


def of(played: list[Played], policy: str, attack: str = "") -> dict[str, Any]:
    return next(one.record for one in played if (one.playing.policy, one.playing.attack) == (policy, attack))


def test_knowledge_rises_through_four_levels_and_comes_down_to_who_contributed_nothing(played: list[Played]) -> None:
    found = figures(of(played, "always"))
    assert of(played, "always")["releases"][LEAF] >= 1
    assert found["accuracy_subdomain"] is not None and found["accuracy_subdomain"] > 0.3
    assert found["peer_gain"] is not None and found["peer_gain"] > 30
    assert set(of(played, "always")["days"][0]["places"]) == {"master", "en", "en/shapes", LEAF}


def test_who_never_releases_moves_updates_up_and_nothing_down_and_nobody_learns(played: list[Played]) -> None:
    record = of(played, "never")
    assert not record["releases"]
    assert record["pushes"]["honest"]["waiting"] == record["pushes"]["honest"]["sent"] > 0
    assert record["bytes"]["levels"]["client"]["up"] > 10 * record["bytes"]["levels"]["subdomain"]["up"]
    assert figures(record)["peer_gain"] == 0


def test_every_byte_is_on_one_edge_and_every_push_has_one_end(played: list[Played]) -> None:
    for one in played:
        edges = one.record["bytes"]["edges"].values()
        assert sum(sum(ways.values()) for ways in edges) == one.record["bytes"]["total"] > 0
        for counts in (one.record["pushes"][who] for who in ("honest", "inner", "attacker")):
            ends = sum(counts.get(what, 0) for what in ("released", "rejected", "superseded", "waiting", "open"))
            assert ends == counts.get("sent", 0)


def test_an_attacker_sends_what_the_library_makes_and_the_checks_see_it(played: list[Played]) -> None:
    pushes = of(played, "always", "sign-flip")["pushes"]
    assert pushes["attacker"]["sent"] > 0
    assert pushes["attacker"].get("released", 0) < pushes["attacker"]["sent"]


def test_one_seed_gives_the_same_bytes_again_also_when_everything_is_trained_anew(
    played: list[Played], sources: Sources, tmp_path: Path
) -> None:
    again = replace(sources, work=tmp_path)
    shutil.copytree(sources.work / "tiny", tmp_path / "tiny")
    play_all(TINY, again, [Playing("always", 1)], workers=1)
    name = Path("cells") / grid.scenario_digest(TINY) / "always-seed1.json"
    assert (tmp_path / name).read_bytes() == (sources.work / name).read_bytes()


def test_what_was_stopped_goes_on_with_what_is_missing(played: list[Played], sources: Sources) -> None:
    folder = sources.work / "cells" / grid.scenario_digest(TINY)
    cells = [one.playing for one in played]
    (folder / "never-seed1.json").unlink()
    seen: list[str] = []

    def stop(done: int, total: int, which: str) -> None:
        seen.append(which)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play_all(TINY, sources, cells, workers=1, on_cell=stop)
    assert len(seen) == 1 and seen[0].startswith("never-seed1")
    assert [one.record for one in play_all(TINY, sources, cells, workers=1, on_cell=stop)] == [p.record for p in played]


def test_a_full_disk_is_said_and_what_was_played_is_kept(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> dict[str, Any]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("simulations.learning.cell.Cell.play", full)
    with pytest.raises(LocalFailure, match="No space left") as told_of:
        play_all(TINY, sources, [Playing("always", 2)], workers=1)
    assert "goes on" in told_of.value.hint
    assert not (sources.work / "cells" / grid.scenario_digest(TINY) / "always-seed2.json").exists()


def test_findings_and_report_of_what_was_played(played: list[Played]) -> None:
    study = policies(["always", "never", "oracle"], 1, shares=())
    honest = [one for one in played if not one.playing.attack]
    found = told(study, TINY, honest, {"processor": "one"})
    assert found["recommended"]["policy"] == "always"
    assert found["policies"]["oracle"]["regret"]["mean"] == 0
    text = page(found, honest, "node simulate policies <x>")
    assert text.count("<svg") == 3 and "&lt;x&gt;" in text
    named_spaces = ("http://www.w3.org/", "http://purl.org/", "http://creativecommons.org/")  # names, not addresses
    assert text.count("http") == sum(text.count(space) for space in named_spaces)
    assert "src=" not in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clients": 0}, "without clients"),
        ({"days": 0}, "at least one day"),
        ({"leaves": ()}, "needs a subdomain"),
        ({"leaves": ("en/finance",)}, "not a subdomain"),
        ({"leaves": (LEAF, LEAF)}, "named twice"),
        ({"aggregation": "multi-krum", "aggregation_f": 1}, "n = 2, f = 1"),
        ({"aggregation": "average"}, "no rule of aggregation"),
        ({"leaves": ("en/finance/nowhere",)}, "there are 0 rows"),
    ],
)
def test_what_cannot_be_played_is_refused_in_words(changes: dict[str, Any], message: str, sources: Sources) -> None:
    with pytest.raises(BadData, match=message):
        play_all(replace(TINY, **changes), sources, [Playing("always", 1)], workers=1)


def test_an_unknown_policy_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        main, ["simulate", "policies", "--data", str(tmp_path), "--work", str(tmp_path), "--policy", "sometimes"]
    )
    assert isinstance(done.exception, (BadData, SystemExit))
    said = done.output + str(getattr(done.exception, "hint", ""))
    assert all(name in said for name in POLICIES)


def test_arrivals_do_not_hang_on_the_policy_and_attackers_are_nested() -> None:
    assert days_of(TINY, "x", 3) == days_of(TINY, "x", 3) != days_of(TINY, "x", 4)
    ten = Scenario(clients=10)
    few, many = attackers_of(ten, 0.1, 1), attackers_of(ten, 0.3, 1)
    assert few < many and len(many) == round(0.3 * len(ten.learners()))


def test_a_row_is_reduced_to_what_it_names() -> None:
    assert named(Row("a", '{"tool":"x","args":{"y":1}}')).output == '{"tool":"x"}'
    assert named(Row("a", "plain")).output == "plain"


def test_studies_name_the_cells_that_they_compare() -> None:
    asked = policies(["always", "every-n"], 2, shares=(0.3,)).cells
    assert [(one.policy, one.seed, one.attackers) for one in asked[:2]] == [("always", 1, 0.0), ("every-n", 1, 0.0)]
    assert {one.policy for one in asked if one.attackers} == {"every-n"}
    assert {one.gate for one in forgetting(1).cells} == {True, False}
    assert all(one.probes for one in attacks(1).cells)
    assert set(POLICY_NAMES) > {"oracle", "never", "always"}
    assert check(TINY) is TINY
    check_bound(TINY)


def cells_of(**policies_: tuple[float, float, float]) -> dict[str, dict[int, dict[str, float | None]]]:
    """Two seeds of each policy: accuracy, MB, hours."""
    return {
        name.replace("_", "-"): {
            seed: {"accuracy_over_days": a + seed / 1000, "mb": mb + seed / 10, "stale_hours_p95": hours}
            for seed in (1, 2)
        }
        for name, (a, mb, hours) in policies_.items()
    }


@pytest.mark.parametrize(
    ("cells", "chosen", "default"),
    [
        (cells_of(always=(0.50, 90, 0), every_n=(0.49, 60, 9), drift=(0.40, 10, 9)), "every-n", False),
        (cells_of(always=(0.50, 90, 0), every_n=(0.49, 60, 9), lazy=(0.49, 30, 9)), "lazy", True),
        (cells_of(every_n=(0.49, 60, 9), lazy=(0.49, 59, 5), oracle=(0.9, 1, 1)), "lazy", True),
        (cells_of(every_n=(0.60, 60, 9), lazy=(0.49, 5, 5)), "every-n", False),
    ],
)
def test_the_rule_of_recommendation(cells: Any, chosen: str, default: bool) -> None:
    found = recommend(cells)
    assert (found["policy"], found["becomes_default"]) == (chosen, default)


def test_percentiles() -> None:
    assert percentile([], 50) is None
    assert percentile([3.0], 95) == 3.0
    assert percentile([0.0, 10.0], 50) == 5.0


def test_regret_is_paired_by_seed(played: list[Played]) -> None:
    table = compared([one for one in played if not one.playing.attack])["policies"]
    expected = 100 * (table["oracle"]["accuracy_over_days"]["mean"] - table["never"]["accuracy_over_days"]["mean"])
    assert table["never"]["regret"]["mean"] == pytest.approx(expected)


def test_the_tiny_base_reads_as_the_bundled_one_does_with_fewer_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "PASSES", 1)
    known = read_rows(BUNDLED / "validation.jsonl", 1 << 24)[:30]
    folder = base.make_tiny(BUNDLED / "model", known, ["en"], tmp_path / "tiny")
    small, large = load_tokenizer(folder), load_tokenizer(BUNDLED / "model")
    for row in known:
        ids = small(row.input)["input_ids"]
        assert max(ids) < base.VOCABULARY and small.decode(ids) == row.input
        assert all(at == large.convert_tokens_to_ids(small.convert_ids_to_tokens(at)) for at in ids)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    base.make_tiny(BUNDLED / "model", known, ["en"], folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
