"""A user's table is read, or refused with the line and the column."""

from __future__ import annotations

import json
from datetime import date

import pytest

from recommender.model_table import MAX_TABLE_BYTES, read_table
from registry.errors import BadData

CSV = b"""model,parameters_b,license,languages,score,task,rows,source\r
ours/small,0.5,apache-2.0,de;en,81.5,text-classification,200,our lab\r
\r
ours/small,,,,70,summarization,,\r
"theirs, large",70,,,,,,\r
"""


def test_a_table_of_facts_and_scores_is_read() -> None:
    found = read_table(CSV, "models.csv")
    small, large = found.candidates["ours/small"], found.candidates["theirs, large"]
    assert (small.parameters_b, small.license, small.commercial) == (0.5, "Apache-2.0", True)
    assert (small.languages, small.source, small.weights) == (("de", "en"), "import", "local")
    assert (large.parameters_b, large.license) == (70, None)
    scores = [(line.model, line.task, line.score, line.rows, line.source) for line in found.scores]
    assert scores == [
        ("ours/small", "text-classification", 81.5, 200, "our lab"),
        ("ours/small", "summarization", 70, 0, ""),
    ]


def test_json_says_the_same() -> None:
    items = [{"model": "a/b", "languages": ["de"], "released": "2026-11-21", "kind": "embedding", "weights": "api"}]
    (one,) = read_table(json.dumps(items).encode(), "models.json").candidates.values()
    assert (one.kind, one.languages, one.released, one.weights) == ("embedding", ("de",), date(2026, 11, 21), "api")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"model,parameters_b\na/b,7\nc/d,seven\n", r"t, line 3: 'parameters_b'"),
        (b"model,parameters_b\na/b,-7\n", r"line 2: 'parameters_b'"),
        (b"model,colour\na/b,red\n", r"line 2: 'colour'"),
        (b"name\na/b\n", r"line 2: '(model|name)'"),
        (b"model\na/b,7\n", r"line 2: more cells"),
        (b'model\n"a/b\n', r"line 1: unexpected end"),
        (b"model,license\na/b,whatever\n", r"line 2: license"),
        (b"model,score\na/b,101\n", r"line 2: 'score'"),
        (b"model\na/b\n\xff\xfe\n", r"line 3: not UTF-8"),
        (b"model\n", r"names no model"),
        (b"", r"names no model"),
        (b'[\n{"model": "a/b"},\n{"model"\n]', r"line 4: not JSON"),
        (b'[{"model": "a/b"}, 7]', r"item 2: not an object"),
        (b'[{"model": "a/b"}, {"model": "c", "context_tokens": 0}]', r"item 2: 'context_tokens'"),
        (b'{"model": "a/b"}', r"is no list"),
        (b"[" * 100_000, r"not JSON"),
        (b"x" * (MAX_TABLE_BYTES + 1), r"larger than"),
    ],
    ids=range(17),
)
def test_what_cannot_be_read_is_named_with_its_line(data: bytes, message: str) -> None:
    with pytest.raises(BadData, match=message) as refused:
        read_table(data, "t")
    assert refused.value.hint
