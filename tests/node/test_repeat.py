from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from node.cli import main
from node.context import Node
from node.manifest import RunManifest
from node.repeat import prepare_repeat, read_manifest
from registry.errors import BadData, LocalFailure
from tests.node.conftest import own_rows
from tests.world import snapshot

SMALL = ("--rank", "4", "--epochs", "2", "--batch-tokens", "512", "--learning-rate", "0.01", "--score-rows", "8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    rows = [json.dumps({"input": row.input, "output": row.output}) for row in own_rows(60)]
    file.write_text("\n".join(rows) + "\n")
    return file


def call(node: Node, *words: str | Path, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["finetune", "--home", str(node.home.root), "--json", *map(str, words)])
    assert done.exit_code == code, done.output
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def finetuned(node: Node, data: Path) -> tuple[Path, dict[str, Any]]:
    """A finished run: its manifest and what the command said."""
    done = call(node, "en/numbers", "--data", data, *SMALL)
    return Path(done["folder"]) / "manifest.json", done


def edited(manifest: Path, to: Path, **changes: Any) -> Path:
    fields = json.loads(manifest.read_bytes())
    for name, value in changes.items():
        fields[name] = {**fields[name], **value} if isinstance(value, dict) else value
    to.write_text(json.dumps(fields))
    return to


def files(node: Node) -> set[Path]:
    return {file for file in node.home.root.rglob("*") if not file.name.startswith("banyan.db")}


def test_a_run_is_repeated_from_its_manifest_to_the_same_adapter(tiny_node: Node, data: Path) -> None:
    manifest, first = finetuned(tiny_node, data)
    before, there = snapshot(tiny_node), files(tiny_node)
    again = call(tiny_node, "--manifest", manifest, "--data", data)
    assert (again["state"], again["same"], again["differences"]) == ("repeated", True, [])
    assert again["adapter"] == again["expected"] == first["outcome"]["adapter"]
    assert (snapshot(tiny_node), files(tiny_node)) == (before, there)


def test_a_run_is_repeated_with_the_threads_of_its_manifest(tiny_node: Node, data: Path, tmp_path: Path) -> None:
    manifest, _ = finetuned(tiny_node, data)
    threads = edited(manifest, tmp_path / "m.json", machine={"threads": 2})
    repetition = prepare_repeat(tiny_node, read_manifest(threads), data)
    assert repetition.differences == ()
    repetition.run()
    assert torch.get_num_threads() == 2


def test_another_seed_is_another_adapter_and_exit_code_5(
    tiny_node: Node, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the comparison empty, this would pass as the same."""
    manifest, first = finetuned(tiny_node, data)
    other = edited(manifest, tmp_path / "other.json", plan={"seed": 2})
    monkeypatch.setattr(RunManifest, "run_id", read_manifest(manifest).run_id)
    again = call(tiny_node, "--manifest", other, "--data", data, code=5)
    assert again["adapter"] != again["expected"] == first["outcome"]["adapter"]


def test_a_run_of_elsewhere_is_repeated_without_a_comparison(tiny_node: Node, data: Path, tmp_path: Path) -> None:
    manifest, _ = finetuned(tiny_node, data)
    other = edited(manifest, tmp_path / "m.json", packages={"torch": "1.0"})
    again = call(tiny_node, "--manifest", other, "--data", data)
    assert (again["expected"], again["same"]) == (None, None)


def test_a_dry_run_names_the_differences_and_changes_nothing(tiny_node: Node, data: Path, tmp_path: Path) -> None:
    manifest, _ = finetuned(tiny_node, data)
    other = edited(manifest, tmp_path / "m.json", packages={"torch": "1.0"}, machine={"processor": "abacus"})
    there = files(tiny_node)
    done = CliRunner().invoke(
        main,
        ["finetune", "--home", str(tiny_node.home.root), "--manifest", str(other), "--data", str(data), "--dry-run"],
    )
    assert done.exit_code == 0, done.output
    assert f"warning: not as in the manifest: packages.torch: 1.0 / {torch.__version__} now" in done.stderr
    assert "machine.processor: abacus /" in done.stderr
    assert files(tiny_node) == there


@pytest.mark.parametrize(
    "flags",
    [
        ("--seed", "2"),
        ("--replay", "0.5"),
        ("--format", "text"),
        ("--threads", "1"),
        ("--set", "threads=1"),
        ("--score-rows", "500"),
        ("en/numbers",),
    ],
)
def test_flags_that_the_manifest_decides_are_refused(
    flags: tuple[str, ...], tiny_node: Node, data: Path, tmp_path: Path
) -> None:
    error = call(tiny_node, *flags, "--manifest", tmp_path / "m.json", "--data", data, code=2)["error"]
    assert "leave out " + ("PATH" if flags[0] == "en/numbers" else flags[0]) in error["message"]


def test_without_a_path_the_manifest_is_asked_for(tiny_node: Node, data: Path) -> None:
    assert "--manifest FILE" in call(tiny_node, "--data", data, code=2)["error"]["message"]


def test_other_data_do_not_repeat_a_run(tiny_node: Node, data: Path) -> None:
    manifest, _ = finetuned(tiny_node, data)
    with data.open("a") as file:
        file.write('{"input": "one more", "output": "yes"}\n')
    before, there = snapshot(tiny_node), files(tiny_node)
    error = call(tiny_node, "--manifest", manifest, "--data", data, code=3)["error"]
    assert "is not the file of the run: its SHA-256" in error["message"]
    assert f"node finetune en/numbers --data {data}" in error["hint"]
    data.unlink()
    assert "there is no file" in call(tiny_node, "--manifest", manifest, "--data", data, code=3)["error"]["message"]
    assert (snapshot(tiny_node), files(tiny_node)) == (before, there)


def test_another_base_or_a_release_that_is_not_here_is_named(tiny_node: Node, data: Path, tmp_path: Path) -> None:
    written, _ = finetuned(tiny_node, data)
    other = read_manifest(edited(written, tmp_path / "a.json", ground={"base": "b" * 64}))
    with pytest.raises(BadData, match=r"names another base than en@v1.*\(base b{64} / "):
        prepare_repeat(tiny_node, other, data)
    away = {"path": "en", "version": 3, "digest": "c" * 64}
    with pytest.raises(LocalFailure, match=r"stands on a release of en@v3 that is not on this node: c{64}") as caught:
        prepare_repeat(tiny_node, read_manifest(edited(written, tmp_path / "b.json", ground={"above": away})), data)
    assert caught.value.hint == "node pull en@v3"
    nothing = read_manifest(edited(written, tmp_path / "c.json", ground={"above": None}))
    with pytest.raises(BadData, match="names no release"):
        prepare_repeat(tiny_node, nothing, data)


def test_what_is_not_a_manifest_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    with pytest.raises(BadData, match="No such file"):
        read_manifest(file)
    file.write_bytes(b"{}")
    with pytest.raises(BadData, match="not a run manifest"):
        read_manifest(file)
    with file.open("wb") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(BadData, match="larger than a run manifest"):
        read_manifest(file)
