"""The norms of an update beside it, so that later updates are compared with it without reading its adapter again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; the norms of updates that are there are measured when they are next asked for."""
    op.add_column("updates", sa.Column("norms", sa.Text))
