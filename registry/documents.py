"""The documents that nodes sign and store: strict, frozen, bounded, with one byte form each.

`open_document` verifies first and parses after; a document whose bytes are not the ones that we would write is
refused, which also refuses duplicate keys and every second spelling of a number or a time. Values are plain
strings and numbers as they travel (`NodePath.parse(release.path)` where the tree is meant); `python -m
registry.documents` prints the JSON Schemas. What a document may do is left to trust, the checks and the store.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, ClassVar, Final, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticSerializationError

from registry.envelope import MAX_ENVELOPE_BYTES, Opened, open_sealed, peek_payload, peek_type, seal
from registry.errors import BadData
from registry.fields import (
    MAX_COUNT,
    Count,
    Digest,
    FileName,
    KeyHex,
    Moment,
    Name,
    Part,
    PathText,
    Reason,
    Slug,
    Target,
    Url,
    Version,
)
from registry.keys import KeyId, PrivateKey, PublicKey
from registry.paths import NodePath

MAX_FILE_BYTES: Final = 1 << 40
MAX_RANK: Final = 256
MAX_TOP: Final = 20  # log-probabilities per token of an answer


class Document(Part):
    """A part with a type of its own and one byte form (D1)."""

    PAYLOAD_TYPE: ClassVar[str]

    def to_bytes(self) -> bytes:
        """The one byte form of the document (D2): compact JSON in the order of the fields; raises BadData."""
        try:
            return self.model_dump_json().encode()
        except PydanticSerializationError as error:
            raise BadData(f"{type(self).__name__} cannot be written as text") from error

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the byte form, and no other spelling of the same values (D2); raises BadData."""
        if len(data) > MAX_ENVELOPE_BYTES:
            raise BadData(f"{cls.__name__} is too large: {len(data)} bytes, the limit is {MAX_ENVELOPE_BYTES}")
        try:
            document = cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"])) or "the text"
            raise BadData(f"not a valid {cls.__name__}: {where!a:.100}: {first['msg']}") from error
        if document.to_bytes() != data:
            raise BadData(
                f"not a valid {cls.__name__}: not in its one byte form (a key twice, spaces, another spelling)"
            )
        return document

    def speaker(self) -> KeyId | None:
        """The key that the document says it comes from; None where it does not say."""
        return None


class File(Part):  # D9
    """A file by name, size in bytes and SHA-256; names are flat."""

    name: FileName
    size: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]
    sha256: Digest


class AdapterShape(Part):  # D12
    """What the tensors of a LoRA adapter must look like; ΔW = alpha / rank · B·A for every target module."""

    rank: Annotated[int, Field(ge=1, le=MAX_RANK)]
    alpha: Annotated[float, Field(gt=0)]
    targets: Annotated[tuple[Target, ...], Field(min_length=1, max_length=32)]
    dtype: Literal["F32", "BF16", "F16"]

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.alpha > 4 * self.rank:
            raise ValueError("alpha is more than four times the rank")
        _refuse_repeats("target", self.targets)
        return self


class Adapter(Part):
    """The file of an adapter and its shape."""

    file: File
    shape: AdapterShape


class Evaluation(Part):
    """Figures measured on a data set at a path; metrics by name, all finite."""

    dataset: Name
    split: Name
    rows: Count
    metrics: Annotated[dict[Slug, float], Field(max_length=40)]
    path: PathText


class ReleasePin(Part):  # R1
    """One exact release: `digest` is the SHA-256 of its envelope's bytes."""

    path: PathText
    version: Version
    digest: Digest


class BaseManifest(Document):  # D13
    """A base: the full weights, tokenizer and configuration by digest. Stored as a blob, named by `digest`."""

    PAYLOAD_TYPE: ClassVar[str] = "application/vnd.banyan.base.v1+json"

    name: Name
    family: Slug
    files: Annotated[tuple[File, ...], Field(min_length=1, max_length=1000)]
    licence: Name

    @model_validator(mode="after")
    def _no_clash(self) -> Self:
        _refuse_repeats("file name", [file.name.lower() for file in self.files])
        return self

    @property
    def digest(self) -> str:
        """The base's digest: SHA-256 of its byte form."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


class Release(Document):  # D15, R3, R14
    """An immutable version of the model at a path."""

    PAYLOAD_TYPE: ClassVar[str] = "application/vnd.banyan.release.v1+json"

    path: PathText
    version: Version
    base: Digest
    base_name: Name
    adapter: Adapter | None
    above: ReleasePin | None
    previous: Digest | None
    anchors: File | None
    card: File
    evaluations: Annotated[tuple[Evaluation, ...], Field(max_length=200)]
    contributions: Annotated[tuple[Digest, ...], Field(max_length=2000)]
    recompression_error: Annotated[float, Field(ge=0)] | None
    created: Moment
    expires: Moment

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_life(self.created, self.expires)
        _refuse_repeats("contribution", self.contributions)
        if self.above is not None:
            here, above = NodePath.parse(self.path), NodePath.parse(self.above.path)
            if here == above or not here.is_within(above):
                raise ValueError("the release above is of a place that is not above")
        return self


class Offering(Document):
    """What every signed offer of knowledge says: from `issuer` to `audience`, over the audience's `release`."""

    path: PathText
    issuer: Digest
    audience: Digest
    base: Digest
    release: ReleasePin
    sequence: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    created: Moment
    expires: Moment

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        _check_life(self.created, self.expires)
        return self

    def speaker(self) -> KeyId:
        """The issuer."""
        return self.issuer


class Update(Offering):  # D14, R14
    """A signed offer of an adapter delta, relative to `release`, from `issuer` to `audience`."""

    PAYLOAD_TYPE: ClassVar[str] = "application/vnd.banyan.update.v1+json"

    adapter: Adapter
    claims: Annotated[tuple[Evaluation, ...], Field(max_length=200)]
    run: Digest
    transfer: File | None
    transfer_rows: Count

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.transfer is None) != (self.transfer_rows == 0):
            raise ValueError("a transfer file and a number of transfer rows go together")
        return self

    @property
    def files(self) -> tuple[File, ...]:
        """What travels with it, the adapter first."""
        return (self.adapter.file, self.transfer) if self.transfer else (self.adapter.file,)

    @property
    def rows(self) -> int:
        """How many rows travel."""
        return self.transfer_rows


class Distillation(Offering):  # D16, R14
    """A signed offer of answers, from a model on `base` to one on another: where weights mean nothing.

    `teacher` is the release of the issuer that gave the answers. With `top` log-probabilities for every token of an
    answer, `tokenizer` names the tokenizer.json that the tokens are of.
    """

    PAYLOAD_TYPE: ClassVar[str] = "application/vnd.banyan.distillation.v1+json"

    teacher: Digest
    answers: File
    answer_rows: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    top: Annotated[int, Field(ge=0, le=MAX_TOP)]
    tokenizer: Digest | None
    claims: Annotated[tuple[Evaluation, ...], Field(max_length=200)]
    run: Digest

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.tokenizer is None) != (self.top == 0):
            raise ValueError("a tokenizer and a number of log-probabilities go together")
        return self

    @property
    def files(self) -> tuple[File, ...]:
        """What travels with it."""
        return (self.answers,)

    @property
    def rows(self) -> int:
        """How many rows travel."""
        return self.answer_rows


AnyOffering = Update | Distillation


class EnrolmentRequest(Document):  # N1
    """A key asks to speak for a path; signed by that key (see `open_request`)."""

    PAYLOAD_TYPE: ClassVar[str] = "application/vnd.banyan.enrolment-request.v1+json"

    path: PathText
    key: KeyHex
    url: Url | None
    created: Moment

    def speaker(self) -> KeyId:
        """The key that asks."""
        return PublicKey.from_hex(self.key).id


class Enrolment(Document):
    """The parent's statement: `key` may speak for `path` and below, until it expires."""

    PAYLOAD_TYPE: ClassVar[str] = "application/vnd.banyan.enrolment.v1+json"

    path: PathText
    key: KeyHex
    issuer: Digest
    issuer_path: PathText
    created: Moment
    expires: Moment

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_life(self.created, self.expires)
        if not NodePath.parse(self.path).is_within(NodePath.parse(self.issuer_path)):
            raise ValueError("the issuer's place is not above the path")
        return self

    def speaker(self) -> KeyId:
        """The issuer."""
        return self.issuer


class CheckResult(Part):
    """What one check saw: its value and threshold (None where it has none), and why it passed or not."""

    name: Slug
    value: float | None
    threshold: float | None
    passed: bool
    reason: Reason
    cost_ms: Annotated[float, Field(ge=0)]


class Verdict(Document):
    """The parent's answer to an update, with every check."""

    PAYLOAD_TYPE: ClassVar[str] = "application/vnd.banyan.verdict.v1+json"

    update: Digest
    outcome: Literal["accepted", "quarantined", "rejected"]
    checks: Annotated[tuple[CheckResult, ...], Field(max_length=200)]
    reason: Reason
    created: Moment


DOCUMENTS: Final = (BaseManifest, Release, Update, Distillation, EnrolmentRequest, Enrolment, Verdict)

AnyDocument = TypeVar("AnyDocument", bound=Document)


def seal_document(document: Document, key: PrivateKey) -> bytes:
    """Sign a document; returns the envelope's bytes. Raises BadData where it is too large."""
    return seal(document.to_bytes(), document.PAYLOAD_TYPE, key)


def open_document(envelope: bytes, model: type[AnyDocument], keys: Iterable[PublicKey]) -> tuple[AnyDocument, Opened]:
    """Verify, then parse (E6, D10).

    Raises BadData unless one of `keys` signed it and is the key that the document says it is.
    """
    opened = open_sealed(envelope, model.PAYLOAD_TYPE, keys)
    document = model.from_bytes(opened.payload)
    if document.speaker() not in (None, opened.signer.id):
        raise BadData(f"this {model.__name__} speaks for key {document.speaker()} and is signed by {opened.signer.id}")
    return document, opened


def open_offering(envelope: bytes, keys: Iterable[PublicKey]) -> tuple[AnyOffering, Opened]:
    """The same for an update or a distillation set, whichever the envelope says that it holds."""
    if peek_type(envelope) == Distillation.PAYLOAD_TYPE:
        return open_document(envelope, Distillation, keys)
    return open_document(envelope, Update, keys)


def read_offering(envelope: bytes) -> AnyOffering:
    """One that was verified when it was taken in. Raises BadData."""
    payload = peek_payload(envelope)
    if peek_type(envelope) == Distillation.PAYLOAD_TYPE:
        return Distillation.from_bytes(payload)
    return Update.from_bytes(payload)


def open_request(envelope: bytes) -> tuple[EnrolmentRequest, Opened]:
    """Open a request to be enrolled, with the key that it carries (N1).

    It proves that the asker holds that key. Raises BadData.
    """
    claimed = EnrolmentRequest.from_bytes(peek_payload(envelope))
    return open_document(envelope, EnrolmentRequest, [PublicKey.from_hex(claimed.key)])


def schemas() -> dict[str, dict[str, object]]:
    """The JSON Schema of every document by its payload type."""
    return {model.PAYLOAD_TYPE: model.model_json_schema(mode="serialization") for model in DOCUMENTS}


def _check_life(created: datetime, expires: datetime) -> None:
    """What expires does so after it was made (D11)."""
    if not created < expires:
        raise ValueError("it expires before it is created")


def _refuse_repeats(what: str, values: Iterable[str]) -> None:
    listed = list(values)
    if len(set(listed)) != len(listed):
        raise ValueError(f"a {what} is named twice")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(schemas(), indent=2, ensure_ascii=False) + "\n")
