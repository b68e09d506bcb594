"""Dialogues as JSON Lines, and the command that reads them."""

from __future__ import annotations

import io
import json

import pytest
from click.testing import CliRunner

from assistant.dialogues import MAX_LINE_BYTES, read_dialogues
from node.cli import main
from recommender.constraints import Constraints
from registry.errors import BadData


def test_other_keys_and_empty_lines_are_passed_over() -> None:
    lines = io.BytesIO(b'{"id": 1, "turns": ["a", "b"]}\n\n{"turns": []}')
    assert list(read_dialogues(lines)) == [["a", "b"], []]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b"nonsense", "line 2 is not JSON"),
        (b"\xff", "line 2 is not JSON"),
        (b"[" * 100_000, "line 2 is not JSON"),
        (b'["a"]', "turns"),
        (b'{"turns": "a"}', "turns"),
        (b'{"turns": [1]}', "turns"),
        (b"x" * (MAX_LINE_BYTES + 1), "longer than"),
    ],
)
def test_bad_lines_are_named(line: bytes, cause: str) -> None:
    with pytest.raises(BadData, match=cause):
        list(read_dialogues(io.BytesIO(b'{"turns": []}\n' + line)))


def test_the_command_gives_one_object_with_every_slot_for_each_dialogue() -> None:
    lines = '{"turns": ["Summarise Dutch letters"]}\n{"turns": ["on a T4", "and MIT, mandatory"]}\n'
    done = CliRunner().invoke(main, ["assistant", "extract", "--json"], input=lines)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [list(one) for one in found] == [list(Constraints.model_fields)] * 2
    assert (found[0]["task"], found[0]["languages"]) == ("summarization", ["nl"])
    assert (found[1]["memory_gb"], found[1]["license"]) == (16, "MIT")


def test_turns_may_be_arguments() -> None:
    done = CliRunner().invoke(main, ["assistant", "extract", "no cloud", "at most 3B", "--json"])
    found = json.loads(done.stdout)
    assert (found["local_only"], found["max_parameters_b"]) == (True, 3)
