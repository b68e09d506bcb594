"""Models that the user tells of are recommended like any other, by table and by folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from node.cli import main
from node.context import Node
from node.known_models import add_known, forget_known, known_models
from node.recommending import Shelf, stated
from recommender.answers import Recommendations
from recommender.hardware import described_machine
from registry.errors import BadData
from registry.store import select
from registry.tables import EvidenceRow
from tests.world import make_node

NOW = datetime(2026, 11, 21, tzinfo=UTC)
TABLE = """model,parameters_b,license,languages,domains,score,task,rows,source,score_license
ours/notes,0.3,MIT,de,health,88,summarization,500,our lab,CC-BY-4.0
ours/other,0.3,MIT,de,health,,,,,
"""
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "code.py--Evil"},
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "torch_dtype": "float16",
}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = make_node(tmp_path / "home", "en")
    yield node
    node.close()


def recommended(node: Node, **said: object) -> Recommendations:
    return Shelf(node).recommend(stated(said), described_machine(device="cpu", memory_gb=16), 100, NOW)


def test_models_of_a_table_are_recommended_with_its_scores(node: Node, tmp_path: Path) -> None:
    table = tmp_path / "ours.csv"
    table.write_text(TABLE)
    told = add_known(node, str(table), NOW)
    assert (sorted(told.candidates), len(told.scores)) == (["ours/notes", "ours/other"], 1)
    found = recommended(node, task="summarization", languages=("de",), domain="health", license="MIT")
    first = found.answers[0]
    assert (first.candidate.id, first.candidate.source, first.quality) == ("ours/notes", "import", 88)
    assert first.grade == "measured elsewhere"
    assert "ours.csv: our lab" in first.basis
    with node.store.read() as session:
        assert [row.licence for row in session.scalars(select(EvidenceRow))] == ["CC-BY-4.0"]


def test_a_table_read_again_replaces_its_scores_and_a_model_can_be_forgotten(node: Node, tmp_path: Path) -> None:
    table = tmp_path / "ours.csv"
    for score in ("88", "60"):
        table.write_text(TABLE.replace("88", score))
        add_known(node, str(table), NOW)
    with node.store.read() as session:
        assert [row.score for row in session.scalars(select(EvidenceRow))] == [60]
    forget_known(node, "ours/notes")
    assert list(known_models(node)) == ["ours/other"]
    with node.store.read() as session:
        assert not session.scalars(select(EvidenceRow)).all()
    with pytest.raises(BadData, match="told nothing"):
        forget_known(node, "ours/notes")


def test_a_bad_line_changes_nothing(node: Node, tmp_path: Path) -> None:
    table = tmp_path / "ours.csv"
    table.write_text(TABLE + "ours/third,big,,,,,,,,\n")
    with pytest.raises(BadData, match=r"ours.csv, line 4: 'parameters_b'"):
        add_known(node, str(table), NOW)
    assert known_models(node) == {}


def test_a_folder_is_read_as_data_and_its_code_is_not_run(node: Node, tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "code.py").write_text("raise SystemExit('ran')")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [de, pt-BR]\n---\n# a model\n")
    save_file({"a": np.zeros((1000, 50), np.float16), "b": np.zeros(7, np.float16)}, folder / "model.safetensors")
    add_known(node, str(folder), NOW, name="me/llama")
    one = known_models(node)["me/llama"]
    assert one.parameters_b == pytest.approx(50_007 / 1e9)
    assert (one.kind, one.context_tokens, one.license) == ("generative", 4096, "Apache-2.0")
    assert (one.languages, one.architecture.weight_bytes, one.architecture.kv_heads) == (("de", "pt"), 2.0, 4)
    found = recommended(node, max_parameters_b=0.001)
    assert "me/llama" in [answer.candidate.id for answer in found.answers]


@pytest.mark.parametrize("source", ["nowhere.csv", "a b/c", "."])
def test_what_is_no_source_is_refused(node: Node, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadData) as refused:
        add_known(node, source, NOW)
    assert refused.value.hint


def test_the_commands_add_show_and_remove(node: Node, tmp_path: Path) -> None:
    node.close()
    table = tmp_path / "ours.csv"
    table.write_text(TABLE)
    home = ["--home", str(tmp_path / "home"), "--json"]
    runner = CliRunner()
    added = runner.invoke(main, ["catalogue", "add", str(table), *home])
    assert (added.exit_code, json.loads(added.stdout)["scores"]) == (0, 1)
    shown = json.loads(runner.invoke(main, ["catalogue", *home]).stdout)["models"]
    assert [row["model"] for row in shown] == ["ours/notes", "ours/other"]
    assert runner.invoke(main, ["catalogue", "remove", "ours/notes", *home]).exit_code == 0
    assert len(json.loads(runner.invoke(main, ["catalogue", "show", *home]).stdout)["models"]) == 1
