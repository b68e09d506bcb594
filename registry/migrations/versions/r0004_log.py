"""The log of decisions as a Merkle tree, its checkpoints, and what was seen of others' logs.

The log begins empty: what was decided before stays in `decisions`, where nobody outside has seen it in time to vouch
for it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

HEX = sa.String(64)
TIME = sa.DateTime(timezone=True)
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# Table -> the condition on a new row under which it is refused. It covers INSERT OR REPLACE as well.
OUT_OF_TURN = {
    "log_leaves": "NEW.position <> (SELECT COALESCE(MAX(position) + 1, 0) FROM log_leaves)",
    "log_checkpoints": "NEW.size <= (SELECT COALESCE(MAX(size), 0) FROM log_checkpoints)",
}


def upgrade() -> None:
    """Create the tables and keep the log append-only."""
    op.create_table(
        "log_leaves",
        sa.Column("position", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("subject", HEX, nullable=False),
        sa.Column("leaf", HEX, nullable=False),
        sa.Column("entry", sa.LargeBinary, nullable=False),
        sa.Column("hashes", sa.LargeBinary, nullable=False),
    )
    op.create_index("log_leaves_by_subject", "log_leaves", ["subject"])
    op.create_index("log_leaves_by_leaf", "log_leaves", ["leaf"])
    op.create_table(
        "log_checkpoints",
        sa.Column("size", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("created", TIME, nullable=False),
    )
    op.create_table(
        "seen_checkpoints",
        sa.Column("key_id", HEX, primary_key=True),
        sa.Column("size", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("root", HEX, primary_key=True),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("held", sa.Boolean, nullable=False),
        sa.Column("seen", TIME, nullable=False),
    )
    op.create_table(
        "log_splits",
        sa.Column("digest", HEX, primary_key=True),
        sa.Column("key_id", HEX, nullable=False),
        sa.Column("first", sa.Text, nullable=False),
        sa.Column("second", sa.Text, nullable=False),
        sa.Column("sources", sa.Text, nullable=False),
        sa.Column("found", TIME, nullable=False),
    )
    for table, condition in OUT_OF_TURN.items():
        if op.get_bind().dialect.name == "sqlite":
            _guard_sqlite(table, condition)
        else:
            _guard_postgresql(table, condition)


def _guard_sqlite(table: str, condition: str) -> None:
    refuse = f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
    for moment in ("UPDATE", "DELETE"):
        op.execute(f"CREATE TRIGGER {table}_no_{moment.lower()} BEFORE {moment} ON {table} {refuse}")
    op.execute(f"CREATE TRIGGER {table}_in_turn BEFORE INSERT ON {table} WHEN {condition} {refuse}")


def _guard_postgresql(table: str, condition: str) -> None:
    refuse = f"RAISE EXCEPTION '{table} is append-only' USING ERRCODE = 'integrity_constraint_violation';"
    made = "RETURNS trigger LANGUAGE plpgsql AS"
    op.execute(f"CREATE FUNCTION {table}_append_only() {made} $$ BEGIN {refuse} END $$")
    in_turn = f"BEGIN IF {condition} THEN {refuse} END IF; RETURN NEW; END"
    op.execute(f"CREATE FUNCTION {table}_take_turns() {made} $$ {in_turn} $$")
    for name, moment in {
        "no_change": "BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_append_only()",
        "no_truncate": "BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()",
        "in_turn": "BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_take_turns()",
    }.items():
        op.execute(f"CREATE TRIGGER {table}_{name} {moment.format(table=table)}")
