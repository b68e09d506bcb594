"""The first tables, and the triggers that keep the decisions append-only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

HEX = sa.String(64)
PATH = sa.String(300)
TIME = sa.DateTime(timezone=True)
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

REFUSAL = "decisions are append-only"
SQLITE_TRIGGERS = {
    "decisions_no_update": "BEFORE UPDATE ON decisions",
    "decisions_no_delete": "BEFORE DELETE ON decisions",
    # INSERT OR REPLACE deletes without asking the delete trigger
    "decisions_no_replace": "BEFORE INSERT ON decisions WHEN EXISTS (SELECT 1 FROM decisions WHERE id = NEW.id)",
}
POSTGRESQL_TRIGGERS = {
    "decisions_no_change": "BEFORE UPDATE OR DELETE ON decisions FOR EACH ROW",
    "decisions_no_truncate": "BEFORE TRUNCATE ON decisions FOR EACH STATEMENT",
}


def upgrade() -> None:
    """Create everything."""
    _releases()
    _updates()
    _peers()
    _work()
    op.create_table(
        "decisions",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("at", TIME, nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("subject", HEX, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("decisions_by_subject", "decisions", ["subject"])
    _keep_append_only()


def _keep_append_only() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for name, moment in SQLITE_TRIGGERS.items():
            op.execute(f"CREATE TRIGGER {name} {moment} BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END")
        return
    body = f"$$ BEGIN RAISE EXCEPTION '{REFUSAL}' USING ERRCODE = 'integrity_constraint_violation'; END $$"
    op.execute(f"CREATE FUNCTION decisions_append_only() RETURNS trigger LANGUAGE plpgsql AS {body}")
    for name, moment in POSTGRESQL_TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} {moment} EXECUTE FUNCTION decisions_append_only()")


def _releases() -> None:
    op.create_table(
        "releases",
        sa.Column("digest", HEX, primary_key=True),
        sa.Column("path", PATH, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("signer", HEX, nullable=False),
        sa.Column("base", HEX, nullable=False),
        sa.Column("adapter", HEX),
        sa.Column("above", HEX),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("own", sa.Boolean, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("expires", TIME, nullable=False),
        sa.UniqueConstraint("path", "version", "signer", name="releases_once"),
    )
    op.create_table(
        "heads",
        sa.Column("path", PATH, primary_key=True),
        sa.Column("release", HEX, sa.ForeignKey("releases.digest", name="heads_release"), nullable=False),
        sa.Column("changed", TIME, nullable=False),
    )


def _updates() -> None:
    op.create_table(
        "updates",
        sa.Column("digest", HEX, primary_key=True),
        sa.Column("direction", sa.String(16), nullable=False),
        sa.Column("issuer", HEX, nullable=False),
        sa.Column("path", PATH, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("verdict", sa.LargeBinary),
        sa.Column("release", HEX),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("received", TIME, nullable=False),
        sa.Column("changed", TIME, nullable=False),
        sa.CheckConstraint("direction IN ('in', 'out')", name="updates_direction"),
    )
    op.create_index("updates_by_state", "updates", ["direction", "state"])
    op.create_index("updates_by_issuer", "updates", ["issuer", "path"])
    op.create_table(
        "sequences",
        sa.Column("issuer", HEX, primary_key=True),
        sa.Column("path", PATH, primary_key=True),
        sa.Column("highest", sa.BigInteger, nullable=False),
    )


def _peers() -> None:
    op.create_table(
        "enrolments",
        sa.Column("key_id", HEX, primary_key=True),
        sa.Column("path", PATH, primary_key=True),
        sa.Column("public_key", HEX, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("envelope", sa.LargeBinary),
        sa.Column("url", sa.Text),
        sa.Column("changed", TIME, nullable=False),
        sa.CheckConstraint("state IN ('pending', 'active', 'revoked')", name="enrolments_state"),
    )
    op.create_table(
        "peers",
        sa.Column("key_id", HEX, primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("path", PATH, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("public_key", HEX, nullable=False),
        sa.Column("seen", TIME),
        sa.Column("error", sa.Text),
        sa.CheckConstraint("role IN ('parent', 'child')", name="peers_role"),
    )


def _work() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("path", PATH, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("manifest", HEX),
        sa.Column("adapter", HEX),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("changed", TIME, nullable=False),
        sa.CheckConstraint("state IN ('running', 'done', 'failed')", name="runs_state"),
    )
    op.create_table(
        "evaluations",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("release", HEX),
        sa.Column("path", PATH, nullable=False),
        sa.Column("dataset", HEX, nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("created", TIME, nullable=False),
    )
    op.create_index("evaluations_by_path", "evaluations", ["path"])
