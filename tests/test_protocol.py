"""PROTOCOL.md against the code: every rule is cited where it is enforced and by a test, and nobody cites what is none.

A citation is the rule's number (`R12`) in a docstring or a comment; a test cites it in its docstring.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("registry", "recommender", "assistant", "sync", "simulations", "node")
RULE = re.compile(r"^- \*\*([A-Z]\d+)\*\* (.*?)(?=^- \*\*|^#|\Z)", re.MULTILINE | re.DOTALL)
TEXT = (ROOT / "PROTOCOL.md").read_text(encoding="utf-8").partition("## JSON Schemas")[0]
RULES = {number: " ".join(words.split()) for number, words in RULE.findall(TEXT)}
LETTERS = "".join(sorted({number[0] for number in RULES}))
CITATION = re.compile(rf"\b(?!F(?:16|32|64)\b)[{LETTERS}][1-9]\d?\b")  # but for the names of number formats


def docstrings(tree: ast.Module, *, of_tests: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            is_test = isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
            if is_test or not of_tests:
                yield ast.get_docstring(node) or ""


def comments(source: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def cited(*tops: str) -> dict[str, set[str]]:
    """Rule numbers with the files that cite them."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in sorted(file for top in tops for file in (ROOT / top).rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        texts = [*docstrings(ast.parse(source), of_tests="tests" in tops)]
        texts += [] if "tests" in tops else comments(source)
        for number in CITATION.findall("\n".join(texts)):
            found[number].add(file.relative_to(ROOT).as_posix())
    return found


IN_SOURCES, IN_TESTS = cited(*PACKAGES), cited("tests")


def test_the_rules_are_found_and_numbered_without_gaps() -> None:
    assert len(RULES) > 100
    for letter in LETTERS:
        numbers = sorted(int(number[1:]) for number in RULES if number[0] == letter)
        assert numbers == list(range(1, len(numbers) + 1)), letter


@pytest.mark.parametrize("number", RULES)
def test_every_rule_is_cited_where_it_is_enforced_and_by_a_test(number: str) -> None:
    assert IN_SOURCES.get(number), f"no source cites {number}: {RULES[number]}"
    assert IN_TESTS.get(number), f"no test cites {number}: {RULES[number]}"


def test_nobody_cites_a_rule_that_is_none() -> None:
    assert {n: files for n, files in (IN_SOURCES | IN_TESTS).items() if n not in RULES} == {}


def test_every_module_that_a_rule_names_is_there() -> None:
    named = {name for words in RULES.values() for name in re.findall(r"\b(?:registry|sync|node)(?:\.[a-z_]+)+", words)}
    missing = {name for name in named if not (ROOT / f"{name.replace('.', '/')}.py").is_file()}
    assert {name for name in missing if not (ROOT / name.replace(".", "/")).is_dir()} == set()
