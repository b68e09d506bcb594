"""Model cards are what the Hub reads, and foreign ones are read without trust."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from registry.cards import MAX_CARD_BYTES, CardFacts, Figure, parse_card, render_card, render_next_card, spdx_licence
from registry.documents import Evaluation
from registry.errors import BadData
from registry.paths import Ref

CARDS = Evaluation(
    dataset="banking77 | cards",
    split="test",
    rows=200,
    metrics={"exact_match": 0.765, "perplexity": 1.25},
    path="en/finance/cards",
)
CLINC = Evaluation(dataset="clinc150", split="test", rows=2000, metrics={"exact_match": 0.86}, path="en")
FACTS = CardFacts(
    ref=Ref.parse("en/finance/cards@v3"),
    title="Card questions in English",
    languages=("en", "no"),
    licence="apache-2.0",
    base_model="banyan/en.finance",
    relation="adapter",
    library="peft",
    tags=("intent", "finance"),
    datasets=("PolyAI/banking77",),
    evaluations=(CARDS, CLINC),
    summary="Tells what a customer wants.",
    training="Six epochs.",
    limits="It knows nothing else.",
)


def front(card: str) -> dict[str, Any]:
    """The front matter as any YAML reader sees it."""
    return dict(yaml.safe_load(card.split("---\n")[1]))


def test_the_front_matter_has_the_fields_of_the_hub() -> None:
    fields = front(render_card(FACTS))
    index = fields.pop("model-index")
    assert fields == {
        "language": ["en", "no"],
        "license": "apache-2.0",
        "base_model": "banyan/en.finance",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "datasets": ["PolyAI/banking77"],
        "tags": ["banyan", "intent", "finance"],
    }
    assert [result["dataset"]["type"] for result in index[0]["results"]] == ["banking77-cards", "clinc150"]
    assert index[0]["results"][0]["metrics"][0] == {"type": "exact_match", "value": 0.765}
    assert index[0]["name"] == "en/finance/cards@v3"


def test_the_hub_library_reads_the_card() -> None:
    card = ModelCard(render_card(FACTS))
    assert card.data.license == "apache-2.0"  # type: ignore[attr-defined]
    assert [result.metric_value for result in card.data.eval_results] == [0.765, 1.25, 0.86]  # type: ignore[attr-defined]


def test_a_card_says_what_it_was_told() -> None:
    card = parse_card(render_card(FACTS))
    assert (card.name, card.languages, card.licence) == ("en/finance/cards@v3", ("en", "no"), "Apache-2.0")
    assert (card.base_models, card.relation, card.library) == (("banyan/en.finance",), "adapter", "peft")
    assert card.tags == ("banyan", "intent", "finance")
    assert card.figures == (
        Figure("banking77 | cards", "en/finance/cards", "test", "exact_match", 0.765),
        Figure("banking77 | cards", "en/finance/cards", "test", "perplexity", 1.25),
        Figure("clinc150", "en", "test", "exact_match", 0.86),
    )


def test_the_page_for_people_has_what_they_look_for() -> None:
    body = parse_card(render_card(FACTS)).body
    for part in (
        "# Card questions in English",
        "Tells what a customer wants.",
        "node clone en/finance/cards@v3",
        "| banking77 \\| cards | test | en/finance/cards | 200 | 0.765 | 1.25 |",
        "## Training\n\nSix epochs.",
        "## What it cannot do\n\nIt knows nothing else.",
        "Apache-2.0, and that of its base `banyan/en.finance`.",
    ):
        assert part in body


def test_a_card_without_figures_or_base_is_a_card() -> None:
    facts = replace(
        FACTS, evaluations=(), base_model=None, relation=None, library="transformers", training="", limits=""
    )
    text = render_card(facts)
    assert not {"model-index", "model_name", "base_model", "base_model_relation"} & set(front(text))
    assert "##  " not in text and "## Figures" not in text and "None" not in text
    card = parse_card(text)
    assert (card.figures, card.base_models, card.relation, card.library) == ((), (), None, "transformers")


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200), st.floats(allow_nan=False, allow_infinity=False)
)
def test_no_title_breaks_the_front_matter(title: str, value: float) -> None:
    evaluation = CLINC.model_copy(update={"metrics": {"exact_match": value}})
    card = parse_card(render_card(replace(FACTS, title=title, summary=title, evaluations=(evaluation,))))
    assert card.licence == "Apache-2.0"
    assert card.figures[0].value == value


@pytest.mark.parametrize(("stated", "licence"), [("CC-BY-4.0", "CC-BY-4.0"), (None, "Apache-2.0")])
def test_the_next_card_keeps_languages_and_licence(stated: str | None, licence: str) -> None:
    before = render_card(replace(FACTS, licence=stated)) if stated else "# no front matter"
    card = parse_card(
        render_next_card(before, Ref(FACTS.ref.path, 8), "seedling", evaluations=(CLINC,), summary="What is new.")
    )
    assert card.languages == (FACTS.languages if stated else ())
    assert (card.licence, card.base_models, card.relation) == (licence, ("seedling",), "adapter")
    assert card.body.startswith(f"# {FACTS.ref.path}")
    assert "What is new." in card.body


@pytest.mark.parametrize(
    ("written", "licence", "name"),
    [
        ("MIT", "mit", None),
        ("cc-by-4.0", "cc-by-4.0", None),
        ("Apache-2.0 AND CC-BY-4.0", "other", "Apache-2.0 AND CC-BY-4.0"),
        ("LicenseRef-gemma", "other", "LicenseRef-gemma"),
    ],
)
def test_a_licence_is_written_as_the_hub_lists_it(written: str, licence: str, name: str | None) -> None:
    text = render_card(replace(FACTS, licence=written))
    assert (front(text)["license"], front(text).get("license_name")) == (licence, name)
    assert parse_card(text).licence == spdx_licence(written)


@pytest.mark.parametrize(
    "licence", ["", "free", "MIT OR", "AND", "MIT OR free", "(MIT", "MIT MIT", "x" * 300, "(" * 199]
)
def test_what_is_not_an_spdx_expression_is_no_licence(licence: str) -> None:
    with pytest.raises(BadData, match="licence"):
        render_card(replace(FACTS, licence=licence))


@pytest.mark.parametrize("language", ["EN", "english", "master", "en/health", ""])
def test_what_is_not_a_tag_is_no_language(language: str) -> None:
    with pytest.raises(BadData, match="language"):
        render_card(replace(FACTS, languages=(language,)))


def test_one_thing_is_measured_once() -> None:
    with pytest.raises(BadData, match="measured twice"):
        render_card(replace(FACTS, evaluations=(CLINC, CLINC)))


@pytest.mark.parametrize(
    ("stated", "licence"),
    [
        ("license: apache-2.0", "Apache-2.0"),
        ("license: gemma", "LicenseRef-gemma"),
        ("license: other\nlicense_name: llama 3.2 community", "LicenseRef-llama-3.2-community"),
        ("license: other", "LicenseRef-other"),
        ("license: [mit]", None),
        ("license: 3", None),
        ("tags: [a]", None),
    ],
)
def test_foreign_licences_become_spdx(stated: str, licence: str | None) -> None:
    assert parse_card(f"---\n{stated}\n---\n# Model").licence == licence


def test_foreign_cards_are_read_as_far_as_they_make_sense() -> None:
    card = parse_card(
        "---\r\nlanguage:\r\n- en\r\n- no\r\n- zh-hant\r\n- code-switching!\r\n- 5\r\nbase_model: Qwen/Qwen3-0.6B\r\n"
        "tags: [a, 1, b]\r\nmodel-index: 7\r\n---\r\n# Model\r\n"
    )
    assert card.languages == ("en", "no", "zh-Hant")
    assert card.base_models == ("Qwen/Qwen3-0.6B",)
    assert card.tags == ("a", "b")
    assert card.figures == ()
    assert card.body == "# Model"


@pytest.mark.parametrize("text", ["", "# Only a page", "--- not front matter", "---\n---\n"])
def test_a_card_without_front_matter_says_nothing(text: str) -> None:
    card = parse_card(text)
    assert (card.licence, card.languages, card.figures) == (None, (), ())


@pytest.mark.parametrize(
    "matter",
    [
        "a: [",
        "- a",
        "5",
        "a: !!python/object/apply:os.system ['true']",
        "a: &x [1]\nb: *x",
        "a: " + "[" * 5000,
        "? [a]\n: b",
        "3: 4",
    ],
)
def test_front_matter_that_is_not_plain_yaml_fields_is_bad_data(matter: str) -> None:
    with pytest.raises(BadData, match="front matter"):
        parse_card(f"---\n{matter}\n---\n# Model")


def test_a_card_that_is_short_to_write_and_endless_to_read_is_refused() -> None:
    metric = "{type: a, value: 1}"
    result = "{task: {type: t}, dataset: {type: d, name: d}, metrics: *m}"
    bomb = f"m: &m [{', '.join([metric] * 3000)}]\nr: &r {result}\n"
    bomb += f"model-index:\n- name: x\n  results: [{', '.join(['*r'] * 30000)}]"
    with pytest.raises(BadData, match="front matter"):
        parse_card(f"---\n{bomb}\n---\n")


def test_a_card_has_a_largest_size() -> None:
    with pytest.raises(BadData, match="too long"):
        parse_card("x" * (MAX_CARD_BYTES + 1))
