from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from registry.documents import AdapterShape, ReleasePin, open_document, seal_document
from registry.errors import BadData
from registry.keys import PrivateKey
from registry.rounds import Admission, Contribution, Invitation, RoundTask

KEY = PrivateKey.from_secret(b"7" * 32)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TIMED: dict[str, Any] = {"issuer": KEY.public.id, "created": NOW, "expires": NOW + timedelta(minutes=5)}
TASK: dict[str, Any] = {
    **TIMED,
    "run": "1" * 64,
    "round": 1,
    "rounds": 2,
    "release": ReleasePin(path="en", version=1, digest="2" * 64),
    "base": "3" * 64,
    "start": "4" * 64,
    "shape": AdapterShape(rank=4, alpha=4.0, targets=("q_proj",), dtype="F32"),
    "frozen": "",
    "seed": 1,
}
BROUGHT: dict[str, Any] = {
    **TIMED,
    "path": "en/health",
    "audience": "5" * 64,
    "task": "6" * 64,
    "run": "1" * 64,
    "round": 1,
    "arrays": "7" * 64,
}
INVITED: dict[str, Any] = {**TIMED, "path": "en", "address": "hub.example:8430", "certificate": "-----BEGIN"}
ADMITTED: dict[str, Any] = {
    **TIMED,
    "path": "en/health",
    "audience": "5" * 64,
    "supernode": "ecdsa-sha2-nistp384 AAAA",
}


@pytest.mark.parametrize(
    "document", [RoundTask(**TASK), Contribution(**BROUGHT), Invitation(**INVITED), Admission(**ADMITTED)]
)
def test_what_is_signed_is_read_again_and_for_one_key_only(
    document: RoundTask | Contribution | Invitation | Admission,
) -> None:
    envelope = seal_document(document, KEY)
    assert open_document(envelope, type(document), [KEY.public])[0] == document
    other = PrivateKey.generate()
    with pytest.raises(BadData, match="speaks for key"):
        open_document(seal_document(document, other), type(document), [other.public])


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (RoundTask, {**TASK, "round": 0}),
        (RoundTask, {**TASK, "rounds": 1001}),
        (RoundTask, {**TASK, "frozen": "c"}),
        (RoundTask, {**TASK, "expires": NOW}),
        (RoundTask, {**TASK, "more": 1}),
        (Contribution, {**BROUGHT, "arrays": "x"}),
        (Contribution, {**BROUGHT, "path": "EN"}),
        (Invitation, {**INVITED, "address": "hub.example"}),
        (Invitation, {**INVITED, "address": "http://hub.example:1"}),
        (Admission, {**ADMITTED, "supernode": "ssh-rsa AAAA"}),
    ],
)
def test_what_is_out_of_bounds_is_refused(model: type[RoundTask], fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        model(**fields)
