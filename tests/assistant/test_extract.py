"""What is understood, by classes of sentences: each line is a way to say something."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.extract import MAX_CHARS, MAX_TURNS, extract
from recommender.constraints import SUBDOMAINS, Constraints
from registry.errors import BadData


def understood(*turns: str) -> dict[str, Any]:
    """The rules that were found."""
    return {slot: value for slot, value in extract(turns).rules().items() if value is not None}


@pytest.mark.parametrize(
    ("said", "gb"),
    [
        ("must fit into 2048 MB", 2),
        ("half a gig of memory at most", 0.5),
        ("16 GiB of video memory", 16),
        ("an RTX 3090", 24),
        ("RTX 4090 laptop", 16),
        ("RTX 4060 Ti with 16GB", 16),
        ("4x L4, all four are available for it", 96),
        ("two 3090s, but only one is ours", 24),
        ("ein Rechner mit 64 GB Arbeitsspeicher, keine Grafikkarte", 64),
        ("16 Go de RAM, sans carte graphique", 16),
        ("দশ জিবি মেমরি", 10),
        ("手机内存八个G", 8),
        ("We own an RTX 4090 but it is busy, so it runs on the processor with 32 GB RAM", 32),
    ],
)
def test_memory_is_read(said: str, gb: float) -> None:
    assert understood(said)["memory_gb"] == gb


@pytest.mark.parametrize(
    "said",
    [
        "a 4 TB SSD",
        "500 GB of data to sort",
        "we have A100s, either the 40 or 80 gig ones",
        "an RTX 3060",
        "a MacBook Pro M3",
        "Mixtral 8x7B in Q4_K_M",
        "our 5G router has 40 pages of manual",
    ],
)
def test_what_is_no_memory_for_the_model_is_left_alone(said: str) -> None:
    assert "memory_gb" not in understood(said)


@pytest.mark.parametrize(
    ("said", "slot", "value"),
    [
        ("no more than half a billion params", "max_parameters_b", 0.5),
        ("7 to 9B, no bigger", "max_parameters_b", 9),
        ("It must not be larger than 3B", "max_parameters_b", 3),
        ("como mucho mil millones de parámetros", "max_parameters_b", 1),
        ("höchstens anderthalb Milliarden Parameter", "max_parameters_b", 1.5),
        ("সর্বোচ্চ ৩ বিলিয়ন প্যারামিটার", "max_parameters_b", 3),
        ("参数不超过70亿", "max_parameters_b", 7),
        ("at least 16k context", "min_context_tokens", 16 * 1024),
        ("context of 24k tokens", "min_context_tokens", 24_000),
        ("inputs of forty thousand tokens", "min_context_tokens", 40_000),
        ("Kontext mindestens 32.768 Token", "min_context_tokens", 32_768),
        ("上下文至少三万二千个token", "min_context_tokens", 32_000),
        ("must push 50 tokens a second", "min_tokens_per_s", 50),
        ("min. 15 tokenow na sekunde", "min_tokens_per_s", 15),
        ("每秒不低于30个token", "min_tokens_per_s", 30),
        ("প্রতি সেকেন্ডে কমপক্ষে বিশ টোকেন", "min_tokens_per_s", 20),
        ("seventy US cents per million", "max_usd_per_mtok", 0.7),
        ("0.0004 USD per thousand tokens", "max_usd_per_mtok", 0.4),
        ("maximal 0,80 $ pro Million Token", "max_usd_per_mtok", 0.8),
        ("每百万token不超过两美元", "max_usd_per_mtok", 2),
    ],
)
def test_numbers_are_read_with_their_unit(said: str, slot: str, value: float) -> None:
    assert understood(said)[slot] == pytest.approx(value)


@pytest.mark.parametrize(
    "said",
    [
        "The budget for the whole project is $12,000 and we are 5 people",
        "30-page rulebooks, about 3,000 emails a day",
        "a Llama 3 8B was too slow for us",
        "we go live in March 2027, at 7.30",
    ],
)
def test_numbers_of_other_things_are_left_alone(said: str) -> None:
    assert not understood(said)


@pytest.mark.parametrize(
    ("said", "codes"),
    [
        ("translate from English to Lithuanian", ("en", "lt")),
        ("Polish letters", ("pl",)),
        ("Please polish my emails", None),
        ("a Spanish company", None),
        ("Slovenian parliament speeches", ("sl",)),
        ("translation en>uk", ("en", "uk")),
        ("languages: pt-BR, fr", ("fr", "pt")),
        ("sorry for my English", None),
        ("Bahasa Indonesia and Mandarin", ("id", "zh")),
        ("in English, not in German", ("en",)),
        ("po polsku i czesku", ("cs", "pl")),
        ("sklep w Polsce", None),
        ("vasco y español", ("es", "eu")),
        ("বাংলাদেশের একটি দোকান", None),
        ("ইংরেজি থেকে বাংলায়", ("bn", "en")),
        ("英译中", ("en", "zh")),
    ],
)
def test_languages_are_those_of_texts(said: str, codes: tuple[str, ...] | None) -> None:
    assert understood(said).get("languages") == codes


@pytest.mark.parametrize(
    ("said", "licence"),
    [
        ("MIT or nothing", "MIT"),
        ("Apache 2 licence, mandatory", "Apache-2.0"),
        ("it must be under bsd-3-clause", "BSD-3-Clause"),
        ("something that lets us charge clients", "commercial"),
        ("we sell it in a paid app, and MIT is required", "MIT"),
        ("Apache would be lovely but isn't required", None),
        ("not GPL please", None),
        ("we read Apache Kafka logs", None),
        ("students at MIT", None),
        ("mit einer Grafikkarte", None),
        ("license mit hote hobe", "MIT"),
        ("kommerzielle Nutzung muss erlaubt sein", "commercial"),
        ("可以商用", "commercial"),
    ],
)
def test_licences_are_those_that_are_demanded(said: str, licence: str | None) -> None:
    assert understood(said).get("license") == licence


@pytest.mark.parametrize(
    ("said", "local"),
    [
        ("nothing may leave our own servers", True),
        ("no cloud", True),
        ("the cloud's out of the question", True),
        ("Self-hosting is possible but a cloud service is equally acceptable", False),
        ("le cloud me va", False),
        ("HIPAA applies", None),
        ("we keep cloud infrastructure logs", None),
        ("die Daten dürfen das Haus nicht verlassen", True),
        ("ক্লাউড চলবে না", True),
        ("数据不能出医院", True),
    ],
)
def test_the_place_of_the_data_is_read(said: str, local: bool | None) -> None:
    assert understood(said).get("local_only") is local


@pytest.mark.parametrize(
    ("said", "trains"),
    [
        ("We'll fine-tune it on our tickets", True),
        ("There will be no training", False),
        ("maybe we will fine-tune later", None),
        ("a training centre for adults", None),
        ("Lo entrenaremos con nuestros correos", True),
        ("ট্রেনিং করব না", False),
    ],
)
def test_training_is_read(said: str, trains: bool | None) -> None:
    assert understood(said).get("finetune") is trains


@pytest.mark.parametrize(
    ("said", "device"),
    [
        ("one T4", "cuda"),
        ("a Jetson Orin Nano", "cuda"),
        ("Mac mini M2", "mps"),
        ("no graphics card at all", "cpu"),
        ("on cheap Android tablets", "cpu"),
        ("a bot for phone calls", None),
        ("an AMD card with 16 GB", None),
        ("sin GPU", "cpu"),
        ("没有显卡", "cpu"),
    ],
)
def test_the_device_is_read(said: str, device: str | None) -> None:
    assert understood(said).get("device") == device


@pytest.mark.parametrize(
    ("said", "task", "domain", "subdomain"),
    [
        ("Semantic search in a law library", "feature-extraction", "law", None),
        ("pull supplier names and invoice numbers out of bills", "token-classification", "finance", "accounting"),
        ("not a chatbot: sort claims into nine teams at our insurer", "text-classification", "finance", "insurance"),
        ("I'm a nurse and want help writing Python", "text-generation", "software", "code"),
        ("an all-round assistant, no special subject", "text-generation", "general", None),
        ("summaries of board-game rules", "summarization", None, None),
        ("sumarise oncolgy notes", "summarization", "health", "oncology"),
        ("extraire les montants des factures", "token-classification", "finance", "accounting"),
        ("总结新闻稿", "summarization", "media", "news"),
        ("copy the answer word for word out of the tariff of an airline", "question-answering", "travel", "flights"),
    ],
)
def test_task_and_topic_are_read(said: str, task: str, domain: str | None, subdomain: str | None) -> None:
    found = understood(said)
    assert (found.get("task"), found.get("domain"), found.get("subdomain")) == (task, domain, subdomain)


@pytest.mark.parametrize(
    ("turns", "slot", "value"),
    [
        (("English, Spanish, French", "Forget French."), "languages", ("en", "es")),
        (("Chat in Hindi and Marathi", "Sorry, Marathi can go, just Hindi"), "languages", ("hi",)),
        (("from English to Polish", "to Czech as well"), "languages", ("cs", "en", "pl")),
        (("from English to Polish", "Sorry, to Czech"), "languages", ("cs", "en")),
        (("25 tokens/second minimum", "25 is too ambitious, 15 will do"), "min_tokens_per_s", 15),
        (("max 8 GB", "drop the memory limit"), "memory_gb", None),
        (("16k context", "Make that 32k"), "min_context_tokens", 32_768),
        (("License must be MIT", "the licence doesn't really matter"), "license", None),
        (("We train it on our letters", "We decided against training after all"), "finetune", False),
        (("RTX 5090", "No, that one is my brother's. Mine has 48GB RAM and no graphics card"), "memory_gb", 48),
        (("summarise tickets", "Not summarise, classify"), "task", "text-classification"),
        (("No cloud", "I asked again: the cloud is allowed now"), "local_only", False),
        (("máximo 8 GB de memoria", "Mejor dicho, 6 GB"), "memory_gb", 6),
        (("最多12G显存", "不对,是8G"), "memory_gb", 8),
        (("I'd like 8GB max for the model. Hmm no, make it 6.",), "memory_gb", 6),
    ],
)
def test_later_words_correct_earlier_ones(turns: tuple[str, ...], slot: str, value: Any) -> None:
    assert understood(*turns).get(slot) == value


@pytest.mark.parametrize(
    "turns",
    [
        ("How many parameters does GPT-2 have?",),
        ("Is the MIT licence named after the university?",),
        ("Book me a table for four at 7.30 near the station",),
        ("Write me a poem about autumn leaves",),
        ("kemon acho? tumi ki manush naki robot?",),
        ("¿Qué tiempo hace hoy en Sevilla?",),
        ("I need a model.", "I don't know yet what for."),
        ("",),
        (),
    ],
)
def test_talk_without_a_need_sets_nothing(turns: tuple[str, ...]) -> None:
    assert understood(*turns) == {}


def test_wishes_are_soft() -> None:
    found = extract(["Ideally under 3B, and 20 tokens per second would be nice. MIT is a must."])
    assert [found.max_parameters_b, found.min_tokens_per_s, found.license] != [None, None, None]
    assert {slot: one.hard for slot, one in found.stated()} == {
        "max_parameters_b": False,
        "min_tokens_per_s": False,
        "license": True,
    }


def test_spans_point_at_what_was_typed() -> None:
    turns = ["Résumés  d'articles,", "8 Go de mémoire… en Français; sumarise oncolgy"]
    for slot, one in extract(turns).stated():
        assert one.span is not None, slot
        assert turns[one.span.turn][one.span.start : one.span.end].strip(), slot
    memory = extract(turns).memory_gb
    assert memory is not None
    assert memory.span is not None
    assert turns[1][memory.span.start : memory.span.end] == "8 Go"


@pytest.mark.parametrize("turns", [["x"] * (MAX_TURNS + 1), ["x" * (MAX_CHARS + 1)]])
def test_what_is_too_long_is_refused(turns: list[str]) -> None:
    with pytest.raises(BadData, match="too long"):
        extract(turns)


WORDS = st.sampled_from(
    [
        "no",
        "not",
        "7B",
        "GB",
        "16",
        "$",
        "%",
        "per",
        "token",
        "s",
        "RTX",
        "3060",
        "4090",
        "und",
        ",",
        ".",
        "?",
        "MIT",
        "mit",
        "cloud",
        "k",
        "万",
        "三",
        "দেড়",
        "হাজার",
        "forget",
        "sorry",
        "English",
        "to",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=30), st.lists(WORDS, max_size=12).map(" ".join)), max_size=4))
def test_any_text_gives_constraints_that_hold_together(turns: list[str]) -> None:
    found = extract(turns)
    assert isinstance(found, Constraints)
    if found.subdomain is not None:
        assert found.domain is not None
        assert found.subdomain.value in SUBDOMAINS[found.domain.value]
    for _, one in found.stated():
        assert one.span is not None
        assert 0 <= one.span.start <= one.span.end <= len(turns[one.span.turn])
    assert extract(turns) == found
