"""The rows of the node's database, as classes. What a row means is said here; how the database is opened is in `store`.

Every change of this file needs a migration in `registry/migrations/versions`. Columns called "JSON" hold JSON text that
their writer made; digests and key ids are lower-case hex SHA-256; times are timezone-aware UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column
from sqlalchemy.types import TypeDecorator

Direction = Literal["in", "out"]
EnrolmentState = Literal["pending", "active", "revoked"]
PeerRole = Literal["parent", "child"]
RunState = Literal["running", "done", "failed"]
FeedbackKind = Literal["clone", "rating"]
SpeedKind = Literal["generate", "finetune"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time. SQLite forgets time zones, so UTC goes in and UTC comes out; a naive time is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn any zone into UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone cannot be stored")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


class Table(MappedAsDataclass, DeclarativeBase, kw_only=True):
    """The base of all rows: keyword arguments only, nullable columns default to None."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime(),
        bytes: LargeBinary(),
        float: Double(),
        Direction: String(16),
        EnrolmentState: String(16),
        PeerRole: String(16),
        RunState: String(16),
        FeedbackKind: String(16),
        SpeedKind: String(16),
        JobState: String(16),
    }


def _hex() -> Any:
    return String(64)


def _serial() -> Any:
    return BigInteger().with_variant(Integer(), "sqlite")


class ReleaseRow(Table, kw_only=True):
    """A signed release, ours (`own`) or fetched; `envelope` is what was signed, the other columns repeat it."""

    __tablename__ = "releases"
    __table_args__ = (UniqueConstraint("path", "version", "signer", name="releases_once"),)

    digest: Mapped[str] = mapped_column(_hex(), primary_key=True)
    path: Mapped[str] = mapped_column(String(300))
    version: Mapped[int] = mapped_column(Integer)
    signer: Mapped[str] = mapped_column(_hex())
    base: Mapped[str] = mapped_column(_hex())
    adapter: Mapped[str | None] = mapped_column(_hex(), default=None)
    above: Mapped[str | None] = mapped_column(_hex(), default=None)
    envelope: Mapped[bytes]
    own: Mapped[bool]
    created: Mapped[datetime]
    expires: Mapped[datetime]


class HeadRow(Table, kw_only=True):
    """The release that this node serves at a path."""

    __tablename__ = "heads"

    path: Mapped[str] = mapped_column(String(300), primary_key=True)
    release: Mapped[str] = mapped_column(_hex(), ForeignKey("releases.digest", name="heads_release"))
    changed: Mapped[datetime]


class UpdateRow(Table, kw_only=True):
    """An update that came in or went out.

    `state` of one that came in is `sync.inbox.State`; of one that went out, what its sender knows of it.
    `release` is the release that it went into; `norms` and `spectrum` are the norm and the form of each module that it
    changes, once they were needed.
    """

    __tablename__ = "updates"
    __table_args__ = (
        CheckConstraint("direction IN ('in', 'out')", name="updates_direction"),
        Index("updates_by_state", "direction", "state"),
        Index("updates_by_issuer", "issuer", "path"),
    )

    digest: Mapped[str] = mapped_column(_hex(), primary_key=True)
    direction: Mapped[Direction]
    issuer: Mapped[str] = mapped_column(_hex())
    path: Mapped[str] = mapped_column(String(300))
    sequence: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16))
    envelope: Mapped[bytes]
    verdict: Mapped[bytes | None] = mapped_column(default=None)
    release: Mapped[str | None] = mapped_column(_hex(), default=None)
    detail: Mapped[str] = mapped_column(Text, default="{}")  # JSON
    norms: Mapped[str | None] = mapped_column(Text, default=None)  # JSON
    spectrum: Mapped[str | None] = mapped_column(Text, default=None)  # JSON
    received: Mapped[datetime]
    changed: Mapped[datetime]


class SequenceRow(Table, kw_only=True):
    """The highest sequence number taken from an issuer for a path: what makes a replay visible."""

    __tablename__ = "sequences"

    issuer: Mapped[str] = mapped_column(_hex(), primary_key=True)
    path: Mapped[str] = mapped_column(String(300), primary_key=True)
    highest: Mapped[int] = mapped_column(BigInteger)


class EnrolmentRow(Table, kw_only=True):
    """Who may speak for a subtree: asked for (`request`), then granted (`envelope` says until when) or revoked."""

    __tablename__ = "enrolments"
    __table_args__ = (CheckConstraint("state IN ('pending', 'active', 'revoked')", name="enrolments_state"),)

    key_id: Mapped[str] = mapped_column(_hex(), primary_key=True)
    path: Mapped[str] = mapped_column(String(300), primary_key=True)
    public_key: Mapped[str] = mapped_column(_hex())
    state: Mapped[EnrolmentState]
    request: Mapped[bytes]
    envelope: Mapped[bytes | None] = mapped_column(default=None)
    url: Mapped[str | None] = mapped_column(Text, default=None)
    changed: Mapped[datetime]


class PeerRow(Table, kw_only=True):
    """A node that we talk to: where it is, and the key that it must show."""

    __tablename__ = "peers"
    __table_args__ = (CheckConstraint("role IN ('parent', 'child')", name="peers_role"),)

    key_id: Mapped[str] = mapped_column(_hex(), primary_key=True)
    role: Mapped[PeerRole]
    path: Mapped[str] = mapped_column(String(300))
    url: Mapped[str] = mapped_column(Text)
    public_key: Mapped[str] = mapped_column(_hex())


class PeerStateRow(Table, kw_only=True):
    """How the exchange with a peer has gone: when it was reached, until when it is left alone, what it has taken.

    `day` is when the 24 hours began whose bytes and requests are counted; `offered` (JSON, path -> version) is what the
    peer last offered of what is followed here, and `behind` since when some of it is not served here; `errors` (JSON)
    are the last ones, `listening` says since when its hints are read.
    """

    __tablename__ = "peer_states"

    key_id: Mapped[str] = mapped_column(_hex(), primary_key=True)
    contacted: Mapped[datetime | None] = mapped_column(default=None)
    succeeded: Mapped[datetime | None] = mapped_column(default=None)
    failures: Mapped[int] = mapped_column(Integer, default=0)
    retry: Mapped[datetime | None] = mapped_column(default=None)
    day: Mapped[datetime | None] = mapped_column(default=None)
    day_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    day_requests: Mapped[int] = mapped_column(Integer, default=0)
    offered: Mapped[str] = mapped_column(Text, default="{}")
    behind: Mapped[datetime | None] = mapped_column(default=None)
    errors: Mapped[str] = mapped_column(Text, default="[]")
    listening: Mapped[datetime | None] = mapped_column(default=None)


class ArrivalRow(Table, kw_only=True):
    """A release that came from the parent, with this node's own signed verdict on it.

    `state` is accepted, quarantined or rejected: only an accepted one is among the releases. `norms` as in `UpdateRow`.
    """

    __tablename__ = "arrivals"
    __table_args__ = (Index("arrivals_by_path", "path"),)

    digest: Mapped[str] = mapped_column(_hex(), primary_key=True)
    path: Mapped[str] = mapped_column(String(300))
    version: Mapped[int] = mapped_column(Integer)
    signer: Mapped[str] = mapped_column(_hex())
    state: Mapped[str] = mapped_column(String(16))
    envelope: Mapped[bytes]
    verdict: Mapped[bytes]
    norms: Mapped[str | None] = mapped_column(Text, default=None)  # JSON
    received: Mapped[datetime]
    changed: Mapped[datetime]


class DecisionRow(Table, kw_only=True):
    """One decision about one subject (an update, a release, a key). Triggers refuse to change or delete it."""

    __tablename__ = "decisions"
    __table_args__ = (Index("decisions_by_subject", "subject"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(_serial(), primary_key=True, autoincrement=True, init=False)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(_hex())
    body: Mapped[str] = mapped_column(Text)  # JSON


class LogLeafRow(Table, kw_only=True):
    """One leaf of the log. Triggers take it at the next position alone, and refuse to change or delete it.

    `hashes` are those of the complete subtrees that end here, 32 bytes each, that of the leaf (`leaf`) first.
    """

    __tablename__ = "log_leaves"
    __table_args__ = (Index("log_leaves_by_subject", "subject"), Index("log_leaves_by_leaf", "leaf"))

    position: Mapped[int] = mapped_column(_serial(), primary_key=True, autoincrement=False)
    subject: Mapped[str] = mapped_column(_hex())
    leaf: Mapped[str] = mapped_column(_hex())
    entry: Mapped[bytes]
    hashes: Mapped[bytes]


class LogCheckpointRow(Table, kw_only=True):
    """A checkpoint that this node signed. Triggers refuse one that is not larger, and to change or delete one."""

    __tablename__ = "log_checkpoints"

    size: Mapped[int] = mapped_column(_serial(), primary_key=True, autoincrement=False)
    note: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime]


class SeenCheckpointRow(Table, kw_only=True):
    """A checkpoint of another node's log: one that was compared with those before it (`held`), or one only told of."""

    __tablename__ = "seen_checkpoints"

    key_id: Mapped[str] = mapped_column(_hex(), primary_key=True)
    size: Mapped[int] = mapped_column(_serial(), primary_key=True, autoincrement=False)
    root: Mapped[str] = mapped_column(_hex(), primary_key=True)
    note: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)  # who showed it: an address
    held: Mapped[bool]
    seen: Mapped[datetime]


class LogSplitRow(Table, kw_only=True):
    """Evidence that a node showed two logs: two notes that it signed and that do not belong to one log."""

    __tablename__ = "log_splits"

    digest: Mapped[str] = mapped_column(_hex(), primary_key=True)  # of both notes
    key_id: Mapped[str] = mapped_column(_hex())
    first: Mapped[str] = mapped_column(Text)
    second: Mapped[str] = mapped_column(Text)
    sources: Mapped[str] = mapped_column(Text)
    found: Mapped[datetime]


class RunRow(Table, kw_only=True):
    """One fine-tuning or consolidation run."""

    __tablename__ = "runs"
    __table_args__ = (CheckConstraint("state IN ('running', 'done', 'failed')", name="runs_state"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    path: Mapped[str] = mapped_column(String(300))
    state: Mapped[RunState]
    manifest: Mapped[str | None] = mapped_column(_hex(), default=None)
    adapter: Mapped[str | None] = mapped_column(_hex(), default=None)
    detail: Mapped[str] = mapped_column(Text, default="{}")  # JSON
    created: Mapped[datetime]
    changed: Mapped[datetime]


class EvidenceRow(Table, kw_only=True):
    """What one model scored on one set of rows, or on a benchmark of others.

    `model` is the path of a release, which `release` names, or the id of a model of others. `benchmark` is the digest
    of the rows or a name; `task`, `languages` and `domains` are what the rows say of themselves, empty where they do
    not. `score` is 0 to 100, None where the figures in `metrics` do not say how good an answer is; `half_width` is that
    of its 95 % interval where it does not follow from `rows`; `right_bits` has a bit for each row, the first highest.
    """

    __tablename__ = "evidence"
    __table_args__ = (Index("evidence_by_model", "model"), Index("evidence_by_release", "release"))

    id: Mapped[int] = mapped_column(_serial(), primary_key=True, autoincrement=True, init=False)
    model: Mapped[str] = mapped_column(String(300))
    release: Mapped[str | None] = mapped_column(_hex(), default=None)
    benchmark: Mapped[str] = mapped_column(String(200))
    task: Mapped[str] = mapped_column(String(100), default="")
    languages: Mapped[str] = mapped_column(Text, default="[]")  # JSON
    domains: Mapped[str] = mapped_column(Text, default="[]")  # JSON
    score: Mapped[float | None] = mapped_column(default=None)
    half_width: Mapped[float | None] = mapped_column(default=None)
    rows: Mapped[int] = mapped_column(Integer, default=0)
    right_bits: Mapped[bytes | None] = mapped_column(default=None)
    metrics: Mapped[str] = mapped_column(Text, default="{}")  # JSON
    seconds: Mapped[float | None] = mapped_column(default=None)
    machine: Mapped[str] = mapped_column(Text, default="")
    here: Mapped[bool]  # measured by this node
    source: Mapped[str] = mapped_column(Text)
    licence: Mapped[str] = mapped_column(String(200), default="")
    created: Mapped[datetime]


class FeedbackRow(Table, kw_only=True):
    """What one voice did with a model or said of it: cloned it, or rated it 1 to 5. The last word of a voice counts."""

    __tablename__ = "feedback"
    __table_args__ = (
        UniqueConstraint("model", "voice", "kind", name="feedback_once"),
        CheckConstraint("kind IN ('clone', 'rating')", name="feedback_kind"),
        CheckConstraint("rating BETWEEN 1 AND 5", name="feedback_rating"),
    )

    id: Mapped[int] = mapped_column(_serial(), primary_key=True, autoincrement=True, init=False)
    model: Mapped[str] = mapped_column(String(300))
    release: Mapped[str | None] = mapped_column(_hex(), default=None)
    voice: Mapped[str] = mapped_column(_hex())  # "" for who uses this machine, else the digest of an API key
    kind: Mapped[FeedbackKind]
    rating: Mapped[int | None] = mapped_column(Integer, default=None)
    words: Mapped[str] = mapped_column(Text, default="")
    created: Mapped[datetime]


class SpeedRow(Table, kw_only=True):
    """How fast this machine worked, and in how much memory, beside what was estimated before."""

    __tablename__ = "speeds"
    __table_args__ = (CheckConstraint("kind IN ('generate', 'finetune')", name="speeds_kind"),)

    id: Mapped[int] = mapped_column(_serial(), primary_key=True, autoincrement=True, init=False)
    kind: Mapped[SpeedKind]
    model: Mapped[str] = mapped_column(String(300))
    tokens: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]
    estimated_tokens_per_s: Mapped[float | None] = mapped_column(default=None)
    peak_bytes: Mapped[int | None] = mapped_column(BigInteger, default=None)
    estimated_bytes: Mapped[int | None] = mapped_column(BigInteger, default=None)
    machine: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime]


class KnownModelRow(Table, kw_only=True):
    """A model of others that the user told this node of, and that it does not serve."""

    __tablename__ = "known_models"

    id: Mapped[str] = mapped_column(String(300), primary_key=True)
    facts: Mapped[str] = mapped_column(Text)  # JSON of `recommender.candidate.Candidate`
    source: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime]


class JobRow(Table, kw_only=True):
    """Work that outlives who asked for it (`node.jobs`); numbers are given out in the order of asking.

    `owner` is the digest of an API key, empty for the node's operator; `tries` counts the processes that began it.
    `error` and `hint` are filled where it failed, `result` where it is done.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("state IN ('queued', 'running', 'done', 'failed', 'cancelled')", name="jobs_state"),
        Index("jobs_by_state", "state"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(_serial(), primary_key=True, autoincrement=True, init=False)
    owner: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    arguments: Mapped[str] = mapped_column(Text)  # JSON
    state: Mapped[JobState]
    tries: Mapped[int] = mapped_column(Integer, default=0)
    progress: Mapped[str | None] = mapped_column(Text, default=None)  # JSON
    result: Mapped[str | None] = mapped_column(Text, default=None)  # JSON
    error: Mapped[str | None] = mapped_column(Text, default=None)
    hint: Mapped[str] = mapped_column(Text, default="")
    created: Mapped[datetime]
    changed: Mapped[datetime]


class SessionRow(Table, kw_only=True):
    """A conversation as it was left: `state` is `assistant.state.State`. `owner` as in `JobRow`."""

    __tablename__ = "sessions"
    __table_args__ = (Index("sessions_by_change", "changed"),)

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    state: Mapped[str] = mapped_column(Text)  # JSON
    created: Mapped[datetime]
    changed: Mapped[datetime]
