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


def talk(home: Path, *lines: str, session: str = "") -> dict[str, Any]:
    said = "".join(f"{line}\n" for line in lines)
    remembered = ["--session", session] if session else []
    done = CliRunner().invoke(main, ["chat", "--tree", "--json", "--home", str(home), *remembered], input=said)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


SAID = ("I need a model for text generation about banking, in English", *["I don't know"] * 6)


def test_a_clone_begins_after_a_plain_yes_alone_and_its_failure_does_not_end_the_talk(home: Path) -> None:
    """The releases of this tree are their base alone, which a clone refuses: so it was tried."""
    declined = talk(home, *SAID, "clone it", "no")
    assert declined["need"]["domain"] == "finance"
    assert declined["model"] == "en/finance"
    assert declined["jobs"] == []
    found = talk(home, *SAID, "clone it", "yes", "how far is it?", "why?")
    *_, started, asked, after = found["replies"]
    assert (started["job"], started["reply"]) == (1, "Job 1 was queued. Ask me how far it is.")
    assert asked["reply"].startswith("Job 1 ")
    assert "meet every rule" in after["reply"]
    (job,) = found["jobs"]
    assert (job["state"], job["error"]) == ("failed", "en/finance@v1 is its base alone, without an adapter")


def test_rows_that_are_not_there_start_nothing(home: Path) -> None:
    found = talk(home, *SAID, "fine-tune it", "rows.jsonl", "yes")
    assert "Which file" in found["replies"][-3]["reply"]
    assert found["replies"][-1]["reply"].startswith("That did not start: there is no file rows.jsonl")
    assert found["jobs"] == []


def test_a_conversation_goes_on_where_it_was_left_until_it_is_forgotten(home: Path) -> None:
    talk(home, SAID[0], session="letters")
    left = talk(home, *SAID[1:], session="letters")
    assert (left["model"], left["need"]["domain"]) == ("en/finance", "finance")
    assert "Shall I?" in talk(home, "clone it", session="letters")["replies"][0]["reply"]
    assert talk(home, "no", session="letters")["replies"][0]["reply"].startswith("Nothing was started")
    as_text = CliRunner().invoke(main, ["chat", "--tree", "--session", "letters", "--home", str(home)], input="")
    assert as_text.stdout.startswith("We had come to en/finance.")

    def run(*words: str) -> dict[str, Any]:
        return json.loads(CliRunner().invoke(main, ["sessions", *words, "--json", "--home", str(home)]).stdout)

    assert [one["name"] for one in run("list")["sessions"]] == ["letters"]
    assert run("delete", "letters")["name"] == "letters"
    assert run("list") == {"sessions": []}
    assert talk(home, "why?", session="letters")["need"] == {}


def test_a_line_without_end_is_refused(home: Path) -> None:
    done = CliRunner().invoke(main, ["chat", "--tree", "--json", "--home", str(home)], input="x" * 30_000)
    assert "longer than" in json.loads(done.stdout)["error"]["message"]
