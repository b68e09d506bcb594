"""How the exchange with a peer goes, and the releases that came from the parent with our verdicts on them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

HEX = sa.String(64)
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "peer_states",
        sa.Column("key_id", HEX, primary_key=True),
        sa.Column("contacted", TIME),
        sa.Column("succeeded", TIME),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("retry", TIME),
        sa.Column("day", TIME),
        sa.Column("day_bytes", sa.BigInteger, nullable=False),
        sa.Column("day_requests", sa.Integer, nullable=False),
        sa.Column("offered", sa.Text, nullable=False),
        sa.Column("behind", TIME),
        sa.Column("errors", sa.Text, nullable=False),
        sa.Column("listening", TIME),
    )
    op.create_table(
        "arrivals",
        sa.Column("digest", HEX, primary_key=True),
        sa.Column("path", sa.String(300), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("signer", HEX, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("verdict", sa.LargeBinary, nullable=False),
        sa.Column("norms", sa.Text),
        sa.Column("received", TIME, nullable=False),
        sa.Column("changed", TIME, nullable=False),
    )
    op.create_index("arrivals_by_path", "arrivals", ["path"])
