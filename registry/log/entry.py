"""What a leaf of the log holds: one decision, by digests and figures (L1, L2).

An entry names what it is about by a digest and never tells a path, a key or a reason: those stand in the signed
document whose digest it holds, and are told to whom that document is told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from registry.documents import CheckResult, Document
from registry.fields import Digest, Moment, Name, Part, Slug

Kind = Literal[
    "update.accepted",
    "update.quarantined",
    "update.rejected",
    "release.made",
    "release.rolled-back",
    "enrolment.granted",
    "enrolment.revoked",
    "key.rotated",
    "key.revoked",
]
DecidedBy = Literal["node", "person"]

MAX_CHECKS: Final = 200


class LoggedCheck(Part):
    """What one check saw; its reason and cost stand in the verdict."""

    name: Slug
    value: float | None
    threshold: float | None
    passed: bool


class LogEntry(Document):
    """One decision.

    `subject` is the digest of the envelope that was decided on: an update, a release, an enrolment or, where none was
    granted, the request; of a key its id. `document` is the digest of the signed document that says the decision in
    full: a verdict, the release that a node rolled back to, the metadata in which a key was exchanged. `checker` is the
    version of what made the checks.
    """

    PAYLOAD_TYPE: ClassVar[str] = "application/vnd.banyan.log-entry.v1+json"

    kind: Kind
    subject: Digest
    document: Digest | None
    by: DecidedBy
    checks: Annotated[tuple[LoggedCheck, ...], Field(max_length=MAX_CHECKS)]
    checker: Name | None
    created: Moment


def log_entry(
    kind: Kind,
    subject: str,
    now: datetime,
    *,
    by: DecidedBy = "node",
    document: bytes | None = None,
    checks: Iterable[CheckResult] = (),
    checker: str | None = None,
) -> LogEntry:
    """An entry from what a decision knows; `document` is the signed document itself."""
    logged = tuple(
        LoggedCheck(name=one.name, value=one.value, threshold=one.threshold, passed=one.passed) for one in checks
    )
    return LogEntry(
        kind=kind,
        subject=subject,
        document=hashlib.sha256(document).hexdigest() if document is not None else None,
        by=by,
        checks=logged,
        checker=checker if logged else None,
        created=now.astimezone(UTC),
    )
