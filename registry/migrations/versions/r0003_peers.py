"""A peer is its place and its key: when it was last reached, and with what outcome, nobody wrote down."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop the columns."""
    op.drop_column("peers", "seen")
    op.drop_column("peers", "error")
