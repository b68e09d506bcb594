from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.own_prompts import own_prompts
from registry.errors import BadData
from registry.home import Home
from registry.paths import NodePath
from registry.rows import Row

FINANCE = NodePath.parse("en/finance")


def put(home: Home, text: str) -> None:
    home.prompts.mkdir(parents=True)
    (home.prompts / "en.finance.jsonl").write_text(text, encoding="utf-8")


def test_prompts_of_a_place_come_once_and_without_answers(tmp_path: Path) -> None:
    home = Home(tmp_path)
    lines = [
        {"input": "my card", "output": ""},
        {"input": "my card", "output": "somebody's answer"},
        {"input": "my card", "output": "", "task": "intent"},
    ]
    put(home, "".join(json.dumps(line) + "\n" for line in lines))
    assert own_prompts(home, FINANCE) == [Row("my card", ""), Row("my card", "", task="intent")]
    assert own_prompts(home, NodePath.parse("en")) == []


@pytest.mark.parametrize("text", ["my card\n", '{"input": "my card"}\n', '{"input": 3, "output": ""}\n', "\n"])
def test_a_file_that_is_none_of_rows_is_named(text: str, tmp_path: Path) -> None:
    home = Home(tmp_path)
    put(home, text)
    with pytest.raises(BadData, match=r"en\.finance\.jsonl, line 1"):
        own_prompts(home, FINANCE)
