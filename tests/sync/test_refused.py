from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from node.cli import main
from node.context import Node
from registry.documents import CheckResult
from registry.errors import LocalFailure
from sync.delta import WEIGHTS_FILE
from sync.refused import MOST_KEPT, TABLE, Refused, RefusedTry, keep_table, refused
from tests.sync.promoting import EN, NOW, at_work, updates_of
from tests.toy_tree import head_of

FAILED = CheckResult(name="gate.known", value=4.5, threshold=1.2, passed=False, reason="4.5 points lost", cost_ms=1.0)


def table(version: int = 2) -> Refused:
    tried = RefusedTry(start="mean", part=1.0, seconds=3.5, recompression_error=0.1, checks=(FAILED,))
    return Refused(
        path="en", version=version, instead_of="1" * 64, updates=("2" * 64,), created=NOW, tries=(tried,)
    )  # fmt: skip


def keep(folder: Path, name: str, version: int = 2) -> None:
    (folder / name).mkdir(parents=True)
    keep_table(table(version), folder / name)


def test_a_refused_candidate_is_kept_with_its_table(parent: Node) -> None:
    """G5."""
    first, (digests, updates) = head_of(parent, "en"), updates_of(parent)
    result = at_work(parent, epochs=0, tries=2, min_gain_kept=2.0).promote(EN, digests, updates)
    assert result.release is None
    ((folder, kept),) = refused(parent.home.refused)
    assert (kept.path, kept.version, kept.instead_of) == ("en", 2, first.digest)
    assert kept.updates == tuple(sorted(digests))
    assert list(kept.tries[0].checks) == result.checks
    assert (folder / WEIGHTS_FILE).is_file()
    shown = CliRunner().invoke(main, ["release", "candidates", "--json"], env={"BANYAN_HOME": str(parent.home.root)})
    assert shown.exit_code == 0, shown.output
    (told,) = json.loads(shown.stdout)["candidates"]
    assert told["folder"] == str(folder)
    assert {check["name"] for check in told["tries"][0]["checks"]} >= {"gate.known", "gate.gain-1"}


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for number in range(MOST_KEPT + 3):
        keep(tmp_path, f"release-{number}", version=number + 2)
        os.utime(tmp_path / f"release-{number}", (number, number))
    keep(tmp_path, "last")
    assert len(list(tmp_path.iterdir())) == MOST_KEPT
    assert (tmp_path / "last" / TABLE).is_file()
    assert not (tmp_path / "release-0").exists()


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    keep(tmp_path, "good")
    for name, text in {"cut": '{"path": "en"', "other": "{}", "empty": ""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / TABLE).write_text(text)
    assert [folder.name for folder, _ in refused(tmp_path)] == ["good"]
    assert refused(tmp_path / "nowhere") == []


def test_a_table_that_cannot_be_written_is_our_own_failure(tmp_path: Path) -> None:
    with pytest.raises(LocalFailure, match="cannot write"):
        keep_table(table(), tmp_path / "nowhere")
