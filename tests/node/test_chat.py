"""`node chat` over the tree of a node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from node.cli import main
from tests.world import make_node, put_tree


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    node = make_node(tmp_path / "home", "en", "en/finance")
    put_tree(node, "en", "en/finance")
    node.close()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def talk(home: Path, *lines: str) -> dict[str, Any]:
    said = "".join(f"{line}\n" for line in lines)
    done = CliRunner().invoke(main, ["chat", "--tree", "--json", "--home", str(home)], input=said)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


SAID = ("I need a model for text generation about banking, in English", *["I don't know"] * 6)


def test_a_clone_begins_after_a_plain_yes_alone_and_its_failure_does_not_end_the_talk(home: Path) -> None:
    """The releases of this tree are their base alone, which a clone refuses: so it was tried."""
    declined = talk(home, *SAID, "clone it", "no")
    assert declined["need"]["domain"] == "finance"
    assert declined["model"] == "en/finance"
    assert not any(one["done"] for one in declined["replies"])
    *_, tried, after = talk(home, *SAID, "clone it", "yes", "why?")["replies"]
    assert tried["done"]["failed"] == "en/finance@v1 is its base alone, without an adapter"
    assert "meet every rule" in after["reply"]


def test_fine_tuning_is_named_as_the_command_that_takes_the_rows(home: Path) -> None:
    said = [
        "I need a model for text generation about banking, in English",
        *["I don't know"] * 6,
        "fine-tune it",
        "yes",
    ]
    assert talk(home, *said)["replies"][-1]["done"] == {"next": "node finetune en/finance --data ROWS.jsonl"}


def test_a_line_without_end_is_refused(home: Path) -> None:
    done = CliRunner().invoke(main, ["chat", "--tree", "--json", "--home", str(home)], input="x" * 30_000)
    assert "longer than" in json.loads(done.stdout)["error"]["message"]
