"""Evidence of every kind of model in the place of evaluations of releases; what users say; how fast the machine is."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

HEX = sa.String(64)
TIME = sa.DateTime(timezone=True)
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables, and take the evaluations over."""
    evidence = op.create_table(
        "evidence",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("model", sa.String(300), nullable=False),
        sa.Column("release", HEX),
        sa.Column("benchmark", sa.String(200), nullable=False),
        sa.Column("task", sa.String(100), nullable=False),
        sa.Column("languages", sa.Text, nullable=False),
        sa.Column("domains", sa.Text, nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("half_width", sa.Double),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("right_bits", sa.LargeBinary),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("seconds", sa.Double),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("here", sa.Boolean, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("licence", sa.String(200), nullable=False),
        sa.Column("created", TIME, nullable=False),
    )
    _take_over_evaluations(evidence)
    op.create_index("evidence_by_model", "evidence", ["model"])
    op.create_index("evidence_by_release", "evidence", ["release"])
    op.create_table(
        "feedback",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("model", sa.String(300), nullable=False),
        sa.Column("release", HEX),
        sa.Column("voice", HEX, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("rating", sa.Integer),
        sa.Column("words", sa.Text, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.UniqueConstraint("model", "voice", "kind", name="feedback_once"),
        sa.CheckConstraint("kind IN ('clone', 'rating')", name="feedback_kind"),
        sa.CheckConstraint("rating BETWEEN 1 AND 5", name="feedback_rating"),
    )
    op.create_table(
        "speeds",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("model", sa.String(300), nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("estimated_tokens_per_s", sa.Double),
        sa.Column("peak_bytes", sa.BigInteger),
        sa.Column("estimated_bytes", sa.BigInteger),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.CheckConstraint("kind IN ('generate', 'finetune')", name="speeds_kind"),
    )
    op.create_table(
        "known_models",
        sa.Column("id", sa.String(300), primary_key=True),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("created", TIME, nullable=False),
    )


def _take_over_evaluations(evidence: sa.Table) -> None:
    """The old rows never said what they were of; the path of the model tells what can be told."""
    old = sa.table(
        "evaluations",
        *(sa.column(name) for name in ("release", "path", "dataset", "metrics", "rows", "seconds", "machine")),
        sa.column("created", TIME),
    )
    connection = op.get_bind()
    found = [row._asdict() for row in connection.execute(sa.select(old))]
    for row in found:
        exact = json.loads(row["metrics"]).get("exact_match")
        row |= {"model": row.pop("path"), "benchmark": row.pop("dataset")}
        row |= {"task": "", "languages": "[]", "domains": "[]", "here": True, "source": "this node", "licence": ""}
        row |= {"score": None if exact is None else 100 * exact}
    if found:
        connection.execute(sa.insert(evidence), found)
    op.drop_index("evaluations_by_path", "evaluations")
    op.drop_table("evaluations")
