"""Paths have one spelling, and what they say of each other follows the tree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadData
from registry.paths import MAX_PARTS, NodePath, Ref

LANGUAGES = st.sampled_from(["en", "de", "fr", "pt-BR", "zh-Hant", "gsw", "bar", "mul"])
SLUGS = st.from_regex(r"[a-z0-9]{1,12}(-[a-z0-9]{1,8}){0,2}", fullmatch=True).filter(lambda slug: slug != "master")
PATHS = st.one_of(
    st.just(NodePath()),
    st.builds(lambda tag, slugs: NodePath((tag, *slugs)), LANGUAGES, st.lists(SLUGS, max_size=MAX_PARTS - 1)),
)


@given(PATHS)
def test_every_path_reads_back_from_each_of_its_names(path: NodePath) -> None:
    assert NodePath.parse(str(path)) == path
    assert NodePath.from_hub_id(path.hub_id) == path
    assert path.hub_id.count("/") == 1


@given(PATHS)
def test_a_chain_leads_from_the_root_to_the_path(path: NodePath) -> None:
    chain = path.chain()
    assert chain[0] == NodePath()
    assert chain[-1] == path
    assert [place.parent for place in chain] == [None, *chain[:-1]]
    assert all(path.is_within(place) for place in chain)


@given(PATHS, PATHS)
def test_a_path_is_within_exactly_the_places_of_its_chain(path: NodePath, other: NodePath) -> None:
    assert path.is_within(other) == (other in path.chain())


@given(PATHS, st.one_of(st.none(), st.integers(1, 2**31 - 1)))
def test_every_reference_reads_back(path: NodePath, version: int | None) -> None:
    ref = Ref(path, version)
    assert Ref.parse(str(ref)) == ref


def test_the_names_of_the_design() -> None:
    path = NodePath.parse("en/health/pediatrics")
    assert path.hub_id == "banyan/en.health.pediatrics"
    assert str(path.parent) == "en/health"
    assert [str(place) for place in path.chain()] == ["master", "en", "en/health", "en/health/pediatrics"]
    assert Ref.parse("en/health@v7") == Ref(NodePath(("en", "health")), 7)
    assert not NodePath.parse("en/healthy").is_within(NodePath.parse("en/health"))


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "en/", "/en", "en//health", "EN", "en/Health", "en/health_care", "en/-a", "en/a-", "en/a--b", "en/a.b",
        "en/..", "../en", "en/\x00", "en/ä", "en /health", "en\n", "en/health\n", "xx", "english", "master/en",
        "en/" + "a" * 41, "en/a/b/c/d/e/f", "en/" * 100_000, "iw", "eng", "zh-hant", "x" * 10_000,
        "en/master", "en_US", "\udcff", "en\\health", "C:/en",
    ],
)  # fmt: skip
def test_any_other_spelling_is_refused(text: str) -> None:
    """D5."""
    with pytest.raises(BadData) as refusal:
        NodePath.parse(text)
    refusal.value.message.encode()  # can be printed and stored
    assert len(refusal.value.message) < 500


def test_the_refusal_names_the_usual_spelling() -> None:
    with pytest.raises(BadData) as refusal:
        NodePath.parse("zh-hant/health")
    assert refusal.value.hint == "write zh-Hant"


@pytest.mark.parametrize(
    "text", ["en@", "en@7", "en@v0", "en@v-1", "en@v07", "en@v1@v2", "en@v99999999999", "@v1", "en@v١"]
)
def test_any_other_spelling_of_a_reference_is_refused(text: str) -> None:
    with pytest.raises(BadData):
        Ref.parse(text)


@pytest.mark.parametrize("hub_id", ["en.health", "other/en", "banyan/", "banyan/en/health", "banyan/en..health", ""])
def test_any_other_hub_id_is_refused(hub_id: str) -> None:
    with pytest.raises(BadData):
        NodePath.from_hub_id(hub_id)
