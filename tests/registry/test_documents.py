"""Signed documents: strict, bounded, one byte form, and no change of any byte that goes unseen."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from registry.documents import (
    DOCUMENTS,
    Adapter,
    AdapterShape,
    BaseManifest,
    CheckResult,
    Distillation,
    Document,
    Enrolment,
    EnrolmentRequest,
    Evaluation,
    File,
    Release,
    ReleasePin,
    Update,
    Verdict,
    open_document,
    open_offering,
    open_request,
    schemas,
    seal_document,
)
from registry.envelope import MAX_ENVELOPE_BYTES, seal
from registry.errors import BadData
from registry.keys import PrivateKey

KEY = PrivateKey.generate()
OTHER = PrivateKey.generate()
NOW = datetime(2026, 3, 1, 12, 30, 15, 250000, tzinfo=UTC)
LATER = NOW + timedelta(days=90)
DIGEST = hashlib.sha256(b"x").hexdigest()

ADAPTER = Adapter(
    file=File(name="adapter_model.safetensors", size=1_000_000, sha256=DIGEST),
    shape=AdapterShape(rank=16, alpha=32.0, targets=("q_proj", "v_proj"), dtype="BF16"),
)
EVALUATION = Evaluation(
    dataset="banking77", split="test", rows=200, metrics={"exact_match": 0.765}, path="en/finance/cards"
)
PIN = ReleasePin(path="en/finance", version=3, digest=DIGEST)
EXAMPLES: dict[str, Document] = {
    "base": BaseManifest(
        name="banyan-6m", family="llama", files=(File(name="model.safetensors", size=12, sha256=DIGEST),), licence="MIT"
    ),
    "release": Release(
        path="en/finance/cards", version=1, base=DIGEST, base_name="banyan-6m", adapter=ADAPTER, above=PIN,
        previous=None, anchors=File(name="anchors.jsonl", size=10, sha256=DIGEST),
        card=File(name="README.md", size=1, sha256=DIGEST),
        evaluations=(EVALUATION,), contributions=(DIGEST,), recompression_error=0.0125, created=NOW, expires=LATER,
    ),
    "update": Update(
        path="en/finance/cards", issuer=KEY.public.id, audience=OTHER.public.id, base=DIGEST, release=PIN, sequence=1,
        created=NOW, expires=LATER, adapter=ADAPTER, claims=(EVALUATION,), run=DIGEST, transfer=None, transfer_rows=0,
    ),
    "distillation": Distillation(
        path="en/finance/cards", issuer=KEY.public.id, audience=OTHER.public.id, base=DIGEST, release=PIN, sequence=1,
        created=NOW, expires=LATER, teacher=DIGEST, answers=File(name="answers.jsonl", size=10, sha256=DIGEST),
        answer_rows=500, top=8, tokenizer=DIGEST, claims=(EVALUATION,), run=DIGEST,
    ),
    "request": EnrolmentRequest(path="en/finance/cards", key=KEY.public.hex, url="http://127.0.0.1:8000", created=NOW),
    "enrolment": Enrolment(
        path="en/finance/cards", key=OTHER.public.hex, issuer=KEY.public.id, issuer_path="en/finance", created=NOW,
        expires=LATER,
    ),
    "verdict": Verdict(
        update=DIGEST, outcome="rejected", reason="the norm is too large: 10 ÷ 2",  created=NOW,
        checks=(CheckResult(name="size.norm", value=10.0, threshold=2.0, passed=False, reason="ΔW", cost_ms=0.25),),
    ),
}  # fmt: skip
SEALED = {name: seal_document(document, KEY) for name, document in EXAMPLES.items()}

names = st.sampled_from(sorted(EXAMPLES))
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
finite = st.floats(allow_nan=False, allow_infinity=False)


def reopen(payload: bytes | str, model: type[Document]) -> Document:
    """What comes of a payload that the right key signed."""
    data = payload.encode() if isinstance(payload, str) else payload
    return open_document(seal(data, model.PAYLOAD_TYPE, KEY), model, [KEY.public])[0]


def changed(name: str, **fields: Any) -> str:
    """The example with some fields changed, written as documents are."""
    return json.dumps({**json.loads(EXAMPLES[name].to_bytes()), **fields}, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_document_opens_to_what_was_sealed(name: str) -> None:
    document, opened = open_document(SEALED[name], type(EXAMPLES[name]), [KEY.public])
    assert document == EXAMPLES[name]
    assert opened.payload == EXAMPLES[name].to_bytes()
    assert opened.digest == hashlib.sha256(SEALED[name]).hexdigest()


@given(names, st.data())
def test_a_change_of_any_one_byte_of_a_sealed_document_is_detected(name: str, data: st.DataObject) -> None:
    sealed = bytearray(SEALED[name])
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadData):
        open_document(bytes(sealed), type(EXAMPLES[name]), [KEY.public])


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_byte_of_a_sealed_document_counts(name: str) -> None:
    for place in range(len(SEALED[name])):
        sealed = bytearray(SEALED[name])
        sealed[place] ^= 1
        with pytest.raises(BadData):
            open_document(bytes(sealed), type(EXAMPLES[name]), [KEY.public])


@given(
    st.builds(
        Evaluation,
        dataset=st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=200),
        split=st.sampled_from(["test", "validation"]),
        rows=st.integers(0, 2**53 - 1),
        metrics=st.dictionaries(st.from_regex(r"[a-z][a-z_]{0,20}", fullmatch=True), finite, max_size=5),
        path=st.sampled_from(["master", "en", "de/law"]),
    ),
    digests,
    moments,
    finite.map(abs),
)
def test_values_of_every_kind_come_back_exactly(
    evaluation: Evaluation, digest: str, created: datetime, error: float
) -> None:
    release = EXAMPLES["release"].model_copy(
        update={
            "evaluations": (evaluation,),
            "contributions": (digest,),
            "created": created,
            "expires": created + timedelta(microseconds=1),
            "recompression_error": error,
        }
    )
    again, _ = open_document(seal_document(release, KEY), Release, [KEY.public])
    assert again == release
    assert again.to_bytes() == release.to_bytes()


@pytest.mark.parametrize("name", EXAMPLES)
def test_unknown_and_missing_fields_are_refused(name: str) -> None:
    """D3."""
    model = type(EXAMPLES[name])
    with pytest.raises(BadData, match=r"more.*not permitted"):
        reopen(changed(name, more=1), model)
    fields = json.loads(EXAMPLES[name].to_bytes())
    for field in fields:
        less = {key: value for key, value in fields.items() if key != field}
        with pytest.raises(BadData, match="Field required"):
            reopen(json.dumps(less, separators=(",", ":"), ensure_ascii=False), model)


def test_an_unknown_field_within_a_part_is_refused() -> None:
    """D3, R14."""
    file = {"name": "README.md", "size": 1, "sha256": DIGEST, "mode": 511}
    with pytest.raises(BadData, match=r"card\.mode"):
        reopen(changed("release", card=file), Release)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(number: float) -> None:
    """D3."""
    with pytest.raises(BadData):
        reopen(changed("release", recompression_error=number), Release)
    with pytest.raises(BadData):
        metrics = {**json.loads(EVALUATION.model_dump_json()), "metrics": {"exact_match": number}}
        reopen(changed("release", evaluations=[metrics]), Release)
    with pytest.raises(ValidationError):
        Evaluation(dataset="d", split="test", rows=1, metrics={"exact_match": number}, path="en")
    with pytest.raises(ValidationError):
        CheckResult(name="norm", value=number, threshold=None, passed=False, reason="", cost_ms=1.0)


def test_a_key_that_stands_twice_is_refused() -> None:
    """D2."""
    payload = EXAMPLES["release"].to_bytes()
    for twice in (
        payload.replace(b'{"path":', b'{"path":"en/health","path":', 1),
        payload.replace(b'"version":1', b'"version":2,"version":1', 1),
        payload.replace(b'"exact_match":0.765', b'"exact_match":0.9,"exact_match":0.765', 1),
        payload.replace(b'"rank":16', b'"rank":16,"rank":16', 1),
    ):
        assert twice != payload
        with pytest.raises(BadData, match="one byte form"):
            reopen(twice, Release)


def test_another_spelling_of_the_same_values_is_refused() -> None:
    """D2."""
    payload = EXAMPLES["release"].to_bytes()
    fields = json.loads(payload)
    for other in (
        json.dumps(fields),
        json.dumps(fields, indent=1),
        payload + b"\n",
        payload.replace(b"0.765", b"7.65e-1"),
        payload.replace(b"0.765", b"0.7650"),
        payload.replace(b"32.0", b"32"),
        payload.replace(b"12:30:15.250000Z", b"12:30:15.25Z"),
        payload.replace(b"12:30:15.250000Z", b"12:30:15.250000+00:00"),
        payload.replace(b"T12:30:15.250000Z", b" 12:30:15.250000Z"),
        payload.replace(b'"banyan-6m"', b'"\\u0062anyan-6m"'),
        json.dumps(dict(reversed(fields.items())), separators=(",", ":")),
    ):
        assert other != payload
        with pytest.raises(BadData):
            reopen(other, Release)


@pytest.mark.parametrize(
    "created",
    ["2026-03-01T12:30:15.250000", "2026-03-01T14:30:15.250000+02:00", 1772368215, 1772368215.25, "1772368215"],
)
def test_a_time_is_given_in_utc(created: object) -> None:
    """D4."""
    with pytest.raises(BadData):
        reopen(changed("request", created=created), EnrolmentRequest)


def test_a_time_without_a_zone_or_elsewhere_cannot_be_put_in() -> None:
    for created in (datetime(2026, 3, 1), datetime(2026, 3, 1, tzinfo=timezone(timedelta(hours=1)))):  # noqa: DTZ001
        with pytest.raises(ValidationError):
            EnrolmentRequest(path="en", key=KEY.public.hex, url=None, created=created)


@pytest.mark.parametrize("value", ["1", 1.0, True, None, -1, 0, 2**31])
def test_nothing_is_converted_to_a_version(value: object) -> None:
    """D3, D6."""
    with pytest.raises(BadData):
        reopen(changed("release", version=value), Release)


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../x", "a/b", "/a", "a\\b", "C:x", ".hidden", "a b", "a\n", "a\x00", "ä", "a" * 101, "con",
        "NUL", "com1.txt", "aux.safetensors", "model.", "~x", "a:b", "a*", "\u202egnp.exe",
    ],
)  # fmt: skip
def test_a_file_name_that_could_be_more_than_a_name_is_refused(name: str) -> None:
    """D8."""
    with pytest.raises(ValidationError):
        File(name=name, size=1, sha256=DIGEST)


@pytest.mark.parametrize("fields", [{"size": -1}, {"size": 2**40 + 1}, {"sha256": DIGEST.upper()}, {"sha256": "ab"}])
def test_a_file_has_a_size_and_a_digest(fields: dict[str, Any]) -> None:
    """D9."""
    with pytest.raises(ValidationError):
        File(**{"name": "a", "size": 1, "sha256": DIGEST, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"rank": 0}, {"rank": 257}, {"alpha": 0.0}, {"alpha": -1.0}, {"alpha": 64.1}, {"alpha": math.inf},
        {"targets": ()}, {"targets": ("q_proj", "q_proj")}, {"targets": ("(.+)+!",)},
        {"targets": ("q.proj",)}, {"dtype": "F64"},
        {"targets": tuple(f"m{number}" for number in range(33))},
    ],
)  # fmt: skip
def test_an_adapter_has_a_bounded_shape(fields: dict[str, Any]) -> None:
    """D12."""
    with pytest.raises(ValidationError):
        AdapterShape(**{"rank": 16, "alpha": 32.0, "targets": ("q_proj",), "dtype": "F32", **fields})


def test_files_of_a_base_that_are_one_file_on_some_systems_are_refused() -> None:
    """D13."""
    files = tuple(File(name=name, size=1, sha256=DIGEST) for name in ("README.md", "readme.md"))
    with pytest.raises(ValidationError, match="named twice"):
        BaseManifest(name="base", family="llama", files=files, licence="MIT")


def test_a_base_is_named_by_the_digest_of_its_bytes() -> None:
    """D13."""
    base = EXAMPLES["base"]
    assert isinstance(base, BaseManifest)
    assert base.digest == hashlib.sha256(base.to_bytes()).hexdigest()
    assert BaseManifest.from_bytes(base.to_bytes()) == base


@pytest.mark.parametrize("above", ["en/finance/cards", "en/finance/cards/gold", "en/finance/transfers", "de"])
def test_what_is_above_a_release_is_above_it(above: str) -> None:
    """R3."""
    pin = {"path": above, "version": 1, "digest": DIGEST}
    with pytest.raises(BadData, match="not above"):
        reopen(changed("release", above=pin), Release)


@pytest.mark.parametrize("name", ["release", "update", "enrolment"])
def test_nothing_expires_before_it_is_created(name: str) -> None:
    """D11."""
    with pytest.raises(BadData, match="expires before"):
        reopen(changed(name, expires="2026-03-01T12:30:15.250000Z"), type(EXAMPLES[name]))


def test_a_contribution_counts_once() -> None:
    """D15."""
    with pytest.raises(BadData, match="named twice"):
        reopen(changed("release", contributions=[DIGEST, DIGEST]), Release)


@pytest.mark.parametrize(
    "fields", [{"transfer_rows": 5}, {"transfer": {"name": "t.jsonl", "size": 1, "sha256": DIGEST}}]
)
def test_transfer_rows_and_their_file_go_together(fields: dict[str, Any]) -> None:
    """D14."""
    with pytest.raises(BadData, match="go together"):
        reopen(changed("update", **fields), Update)


def test_nobody_enrols_for_a_place_that_is_not_below_it() -> None:
    with pytest.raises(BadData, match="not above the path"):
        reopen(changed("enrolment", issuer_path="en/health"), Enrolment)


def test_a_key_that_anyone_can_sign_for_is_not_enrolled() -> None:
    with pytest.raises(BadData, match="not safe"):
        reopen(changed("enrolment", key="00" * 32), Enrolment)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://x y", "http://x\n", "javascript:1", "http://x?a=1", "h" * 400]
)
def test_only_a_plain_address_is_an_address(url: str) -> None:
    with pytest.raises(BadData):
        reopen(changed("request", url=url), EnrolmentRequest)


@pytest.mark.parametrize("name", ["update", "enrolment", "request"])
def test_nobody_speaks_for_another_key(name: str) -> None:
    """D10, U1."""
    document = EXAMPLES[name]
    with pytest.raises(BadData, match="speaks for key"):
        open_document(seal_document(document, OTHER), type(document), [KEY.public, OTHER.public])


def test_a_request_proves_that_the_asker_holds_the_key() -> None:
    """N1."""
    request, opened = open_request(SEALED["request"])
    assert request == EXAMPLES["request"]
    assert opened.signer == KEY.public
    with pytest.raises(BadData, match="may not sign this"):
        open_request(seal_document(EXAMPLES["request"], OTHER))
    with pytest.raises(BadData):
        open_request(SEALED["enrolment"])


def test_one_type_of_document_is_never_read_as_another() -> None:
    """D1."""
    for name, sealed in SEALED.items():
        for model in {type(document) for document in EXAMPLES.values()} - {type(EXAMPLES[name])}:
            with pytest.raises(BadData, match="the envelope holds"):
                open_document(sealed, model, [KEY.public])


def test_the_signature_is_verified_before_anything_is_read() -> None:
    """E6."""
    with pytest.raises(BadData, match="may not sign this"):
        open_document(seal(b"not even JSON", Release.PAYLOAD_TYPE, OTHER), Release, [KEY.public])


@pytest.mark.parametrize("payload", [b"", b"null", b"[]", b"\xff", b"[" * 100_000, b'{"path":' * 50_000, b"1" * 10_000])
def test_signed_nonsense_is_bad_data(payload: bytes) -> None:
    for model in DOCUMENTS:
        with pytest.raises(BadData) as refusal:
            reopen(payload, model)
        assert len(refusal.value.message) < 1000


def test_a_document_has_a_largest_size() -> None:
    with pytest.raises(BadData, match="too large"):
        Release.from_bytes(b" " * (MAX_ENVELOPE_BYTES + 1))
    with pytest.raises(BadData):
        reopen(changed("release", contributions=[f"{number:064x}" for number in range(2001)]), Release)
    with pytest.raises(BadData):
        reopen(changed("release", evaluations=[json.loads(EVALUATION.model_dump_json())] * 201), Release)
    with pytest.raises(BadData):
        reopen(changed("release", base_name="x" * 201), Release)


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\x00b", "a\u202eb", "line\nbreak", "\x9b1m", ""])
def test_a_name_cannot_command_a_terminal(text: str) -> None:
    """D7."""
    with pytest.raises(BadData):
        reopen(changed("release", base_name=text), Release)


@given(st.text(st.characters(), max_size=1500))
def test_a_reason_can_quote_anything_and_still_be_signed(quoted: str) -> None:
    verdict = EXAMPLES["verdict"].model_copy(
        update={"reason": Verdict(**{**dict(EXAMPLES["verdict"]), "reason": quoted}).reason}
    )
    again, _ = open_document(seal_document(verdict, KEY), Verdict, [KEY.public])
    assert not set(again.reason) & {chr(code) for code in [*range(9), *range(11, 32), *range(127, 160), 0x202E]}


def test_a_signed_reason_with_a_terminal_command_is_refused() -> None:
    """D7."""
    with pytest.raises(BadData, match="one byte form"):
        reopen(changed("verdict", reason="\u202e"), Verdict)


def test_documents_do_not_change() -> None:
    for document in EXAMPLES.values():
        with pytest.raises(ValidationError):
            document.created = LATER  # type: ignore[attr-defined]


def test_the_schemas_are_printed_and_closed() -> None:
    assert len(schemas()) == len(DOCUMENTS) == len(EXAMPLES)
    for payload_type, schema in schemas().items():
        assert payload_type.startswith("application/vnd.banyan.") and payload_type.endswith(".v1+json")
        parts = [schema, *schema.get("$defs", {}).values()]  # type: ignore[attr-defined]
        assert all(part["additionalProperties"] is False for part in parts)
    run = subprocess.run(
        [sys.executable, "-m", "registry.documents"], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(run.stdout) == schemas()


@pytest.mark.parametrize(
    "changes", [{"top": 8, "tokenizer": None}, {"top": 0}, {"top": 21}, {"top": -1}, {"answer_rows": 0}]
)
def test_log_probabilities_come_with_the_tokenizer_that_they_are_of(changes: dict[str, Any]) -> None:
    """D16."""
    with pytest.raises(BadData):
        reopen(changed("distillation", **changes), Distillation)
    reopen(changed("distillation", top=0, tokenizer=None), Distillation)


def test_what_is_offered_is_opened_as_what_its_envelope_says() -> None:
    """D1, E4: nothing that is signed as one is read as the other."""
    for name in ("update", "distillation"):
        assert open_offering(SEALED[name], [KEY.public])[0] == EXAMPLES[name]
    crossed = seal(EXAMPLES["update"].to_bytes(), Distillation.PAYLOAD_TYPE, KEY)
    with pytest.raises(BadData):
        open_offering(crossed, [KEY.public])
    with pytest.raises(BadData):
        open_offering(SEALED["release"], [KEY.public])
